"""ADE20K's scene parsing benchmark: 150 classes (Zhou et al., 2017; ADEChallengeData2016).

images/{training,validation}/X.jpg    annotations/{training,validation}/X.png: ids 1..150, 0 = none of them -> 255
"""

from __future__ import annotations

from pipeline.datasets.annotations import TrainIds, bit_colours
from pipeline.datasets.labelled_files import pair_files, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.shards import IGNORE_INDEX

NAME = "ade20k"
FOLDERS = {"train": "training", "val": "validation"}
# Of the synonyms in the release's objectInfo150, those that mmsegmentation's checkpoints carry.
CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
_TRAIN_IDS = TrainIds(
    of={0: IGNORE_INDEX} | {number + 1: number for number in range(len(CLASSES))},
    allowed=f"ids are 1 to {len(CLASSES)}, and 0 for none of the classes",
)


def open_source(request: Request) -> Source:
    """The two splits below the request's folder. InputError when it is not laid out as above."""
    folder = source_folder(request, NAME, "ADE20K's images/ and annotations/")
    pairs = {
        split: pair_files(folder / "images" / FOLDERS[split], folder / "annotations" / FOLDERS[split])
        for split in chosen_splits(request, FOLDERS)
    }
    return read_source(folder, pairs, _TRAIN_IDS.read)


LAYOUT = Layout(
    name=NAME,
    version="1",
    classes=CLASSES,
    palette=bit_colours(range(1, len(CLASSES) + 1)),
    open=open_source,
    published_counts={"train": 20210, "val": 2000},
)
