"""Cityscapes with its fine annotations (Cordts et al., 2016): 34 ids, of which 19 are trained.

leftImg8bit/{split}/{city}/X_leftImg8bit.png    gtFine/{split}/{city}/X_gtFine_labelIds.png: ids 0..33
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.datasets.annotations import TrainIds
from pipeline.datasets.labelled_files import pair_files, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.shards import IGNORE_INDEX

NAME = "cityscapes"
SPLITS = ("train", "val")
NUM_IDS = 34


class TrainedClass(NamedTuple):
    """One of the 19, and its id in the annotations."""

    id: int
    name: str
    colour: tuple[int, int, int]


# In the order of the train ids; source: cityscapesScripts, helpers/labels.py.
TRAINED = (
    TrainedClass(7, "road", (128, 64, 128)),
    TrainedClass(8, "sidewalk", (244, 35, 232)),
    TrainedClass(11, "building", (70, 70, 70)),
    TrainedClass(12, "wall", (102, 102, 156)),
    TrainedClass(13, "fence", (190, 153, 153)),
    TrainedClass(17, "pole", (153, 153, 153)),
    TrainedClass(19, "traffic light", (250, 170, 30)),
    TrainedClass(20, "traffic sign", (220, 220, 0)),
    TrainedClass(21, "vegetation", (107, 142, 35)),
    TrainedClass(22, "terrain", (152, 251, 152)),
    TrainedClass(23, "sky", (70, 130, 180)),
    TrainedClass(24, "person", (220, 20, 60)),
    TrainedClass(25, "rider", (255, 0, 0)),
    TrainedClass(26, "car", (0, 0, 142)),
    TrainedClass(27, "truck", (0, 0, 70)),
    TrainedClass(28, "bus", (0, 60, 100)),
    TrainedClass(31, "train", (0, 80, 100)),
    TrainedClass(32, "motorcycle", (0, 0, 230)),
    TrainedClass(33, "bicycle", (119, 11, 32)),
)
_TRAIN_IDS = TrainIds(
    of=dict.fromkeys(range(NUM_IDS), IGNORE_INDEX) | {trained.id: train_id for train_id, trained in enumerate(TRAINED)},
    allowed=f"ids are 0 to {NUM_IDS - 1}: give the _gtFine_labelIds.png files of the release",
)


def open_source(request: Request) -> Source:
    """The splits below the request's folder. InputError when it is not laid out as above."""
    folder = source_folder(request, NAME, "Cityscapes' leftImg8bit/ and gtFine/")
    pairs = {
        split: pair_files(
            folder / "leftImg8bit" / split,
            folder / "gtFine" / split,
            image_ends=("_leftImg8bit.png",),
            annotation_end="_gtFine_labelIds.png",
        )
        for split in chosen_splits(request, SPLITS)
    }
    return read_source(folder, pairs, _TRAIN_IDS.read)


LAYOUT = Layout(
    name=NAME,
    version="1",
    classes=tuple(trained.name for trained in TRAINED),
    palette=tuple(trained.colour for trained in TRAINED),
    open=open_source,
    published_counts={"train": 2975, "val": 500},
)
