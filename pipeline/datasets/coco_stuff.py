"""COCO-Stuff 164k (Caesar et al., 2018): 80 things and 91 kinds of stuff in COCO 2017's images.

images/{train2017,val2017}/X.jpg
annotations/{train2017,val2017}/X_labelTrainIds.png: mmsegmentation's ids 0..170, 255 = unlabelled; or without these
annotations/{train2017,val2017}/X.png: the release's stuffthingmaps, COCO's category ids - 1, 255 = unlabelled
"""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.annotations import TrainIds, bit_colours, consecutive
from pipeline.datasets.labelled_files import Pair, pair_files, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import Label

NAME = "coco-stuff"
FOLDERS = {"train": "train2017", "val": "val2017"}
TRAIN_IDS_END = "_labelTrainIds.png"
NUM_RAW_IDS = 182
UNUSED_RAW_IDS = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Categories that COCO names but never annotated."""
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "branch",
    "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile",
    "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence",
    "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit",
    "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic",
    "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other", "table",
    "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel",
    "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
_TRAIN_IDS = TrainIds(
    of=consecutive(len(CLASSES)), allowed=f"ids are 0 to {len(CLASSES) - 1}, and {IGNORE_INDEX} for what is unlabelled"
)
_RAW_IDS = TrainIds(
    of={raw: train_id for train_id, raw in enumerate(sorted(set(range(NUM_RAW_IDS)) - UNUSED_RAW_IDS))}
    | {IGNORE_INDEX: IGNORE_INDEX},
    allowed="give the release's stuffthingmaps, whose ids are COCO's category ids - 1",
)


def read_label(path: Path) -> Label:
    """Either kind of annotation -> (H, W) train ids. InputError naming the file when it can't be used."""
    return (_TRAIN_IDS if path.name.endswith(TRAIN_IDS_END) else _RAW_IDS).read(path)


def open_source(request: Request) -> Source:
    """The two splits below the request's folder. InputError when it is not laid out as above."""
    folder = source_folder(request, NAME, "COCO-Stuff's images/ and annotations/")
    pairs = {
        split: _pair(folder / "images" / FOLDERS[split], folder / "annotations" / FOLDERS[split])
        for split in chosen_splits(request, FOLDERS)
    }
    return read_source(folder, pairs, read_label)


def _pair(images: Path, annotations: Path) -> list[Pair]:
    # The converted annotations lie beside the released ones.
    converted = next(annotations.glob(f"*{TRAIN_IDS_END}"), None) is not None
    return pair_files(images, annotations, image_ends=(".jpg",), annotation_end=TRAIN_IDS_END if converted else ".png")


LAYOUT = Layout(
    name=NAME,
    version="1",
    classes=CLASSES,
    palette=bit_colours(range(1, len(CLASSES) + 1)),
    open=open_source,
    published_counts={"train": 118287, "val": 5000},
)
