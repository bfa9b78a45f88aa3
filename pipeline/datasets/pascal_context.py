"""PASCAL-Context (Mottaghi et al., 2014): VOC 2010's images, labelled whole; its 59 frequent classes of 459.

JPEGImages/X.jpg    ImageSets/SegmentationContext/{train,val}.txt, or without them ImageSets/Main/{train,val}.txt

and the annotations, in the first of these folders that there is; 0 = none of the classes:

SegmentationClassContext/X.png    mmsegmentation's ids 1..59, in the order of the classes' names
59_context_labels/X.png           the release's ids 1..59; 59_labels.txt beside it has a line `id: name` for each
trainval/X.mat                    LabelMap, the release's ids 1..459

What is none of the 59 is ignored in pascal-context-59, and the class `background` in pascal-context-60.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.datasets.annotations import TrainIds, bit_colours, read_mat, read_text
from pipeline.datasets.labelled_files import pair_listed, read_list, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import Label

NAME_59 = "pascal-context-59"
NAME_60 = "pascal-context-60"
SPLITS = ("train", "val")
NUM_RELEASED_IDS = 459
PUBLISHED_COUNTS = {"train": 4998, "val": 5105}
RELEASED_IDS = {
    "aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23, "bird": 25, "boat": 31,
    "book": 33, "bottle": 34, "building": 44, "bus": 45, "cabinet": 46, "car": 59, "cat": 65, "ceiling": 68,
    "chair": 72, "cloth": 80, "computer": 85, "cow": 98, "cup": 104, "curtain": 105, "dog": 113, "door": 115,
    "fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189, "horse": 207,
    "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259, "mouse": 260, "person": 284, "plate": 295,
    "platform": 296, "pottedplant": 308, "road": 324, "rock": 326, "sheep": 347, "shelves": 349, "sidewalk": 354,
    "sign": 355, "sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415, "train": 416, "tree": 420,
    "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445, "window": 454, "wood": 458,
}  # fmt: skip
"""Class -> its id in the release's labels.txt; this order is that of PyTorch-Encoding's and mmsegmentation's ids."""
OTHER_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""What 59_labels.txt calls them -> what labels.txt does. Source: the data layers of fcn.berkeleyvision.org."""
CLASSES_59 = tuple(RELEASED_IDS)
CLASSES_60 = ("background", *CLASSES_59)


@dataclass(frozen=True, kw_only=True)
class _Annotations:
    """One of the forms that the annotations come in."""

    folder: Path
    end: str
    """Of the files' names."""
    ids: Mapping[str, int]
    """Class -> id in the files."""
    highest: int
    """Id in the files; 255 is what is ignored, unless that is less."""
    lists: tuple[Path, ...] = ()
    """Where the ids come from, when from a file."""

    def train_ids(self, background: int) -> TrainIds:
        """`background` is what becomes of what is none of the 59: 255, or 0 with the classes from 1 on."""
        first = 0 if background == IGNORE_INDEX else 1
        ignored = {IGNORE_INDEX: IGNORE_INDEX} if self.highest < IGNORE_INDEX else {}
        classes = {self.ids[name]: train_id for train_id, name in enumerate(CLASSES_59, start=first)}
        return TrainIds(
            of=dict.fromkeys(range(self.highest + 1), background) | ignored | classes,
            allowed=f"ids are 1 to {self.highest}, and 0 for what is none of them",
        )


def find_annotations(folder: Path) -> _Annotations:
    """The first of the folders that there is. InputError when there is none, or 59_labels.txt can't be used."""
    prepared, short, released = (
        folder / name for name in ("SegmentationClassContext", "59_context_labels", "trainval")
    )
    if prepared.is_dir():
        by_name = {name: number for number, name in enumerate(CLASSES_59, start=1)}
        return _Annotations(folder=prepared, end=".png", ids=by_name, highest=59)
    if short.is_dir():
        names = folder / "59_labels.txt"
        return _Annotations(folder=short, end=".png", ids=read_names(names), highest=59, lists=(names,))
    if released.is_dir():
        return _Annotations(folder=released, end=".mat", ids=RELEASED_IDS, highest=NUM_RELEASED_IDS)
    raise InputError(
        f"{released}: there is no such folder, nor {prepared.name} or {short.name}: put the release's .mat files there"
    )


def read_names(path: Path) -> dict[str, int]:
    """Class -> id, of a file with lines `id: name`.

    InputError when one of the 59 is missing, or their ids are not those from 1 to 59.
    """
    ids: dict[str, int] = {}
    for line in read_text(path).splitlines():
        number, _, name = (part.strip().replace(" ", "") for part in line.partition(":"))
        if number.isdecimal():
            ids[OTHER_NAMES.get(name, name)] = int(number)
    missing = [name for name in CLASSES_59 if name not in ids]
    if missing:
        raise InputError(f"{path}: has no line for {missing[0]!r}: restore the release's, of lines `id: name`")
    if sorted(ids[name] for name in CLASSES_59) != list(range(1, 60)):
        raise InputError(f"{path}: does not give each of the 59 classes one of the ids 1 to 59: restore the release's")
    return ids


def read_label(train_ids: TrainIds, path: Path) -> Label:
    """A PNG or a .mat file -> (H, W) train ids. InputError naming the file when it can't be used."""
    return train_ids.renumber(read_mat(path, "LabelMap"), path) if path.suffix == ".mat" else train_ids.read(path)


def _open(name: str, background: int, request: Request) -> Source:
    """The two splits. InputError when the folder is not laid out as above."""
    folder = source_folder(request, name, "VOC2010's JPEGImages/ and ImageSets/, and the annotations")
    annotations = find_annotations(folder)
    lists = {split: _list_file(folder, split) for split in chosen_splits(request, SPLITS)}
    pairs = {
        split: pair_listed(read_list(path), folder / "JPEGImages", annotations.folder, annotation_end=annotations.end)
        for split, path in lists.items()
    }
    read = partial(read_label, annotations.train_ids(background))
    return read_source(folder, pairs, read, lists=(*lists.values(), *annotations.lists))


def _list_file(folder: Path, split: str) -> Path:
    lists = folder / "ImageSets"
    own = lists / "SegmentationContext" / f"{split}.txt"
    return own if own.is_file() else lists / "Main" / f"{split}.txt"


LAYOUT_59 = Layout(
    name=NAME_59,
    version="1",
    classes=CLASSES_59,
    palette=bit_colours(range(1, 60)),
    open=partial(_open, NAME_59, IGNORE_INDEX),
    published_counts=PUBLISHED_COUNTS,
)
LAYOUT_60 = Layout(
    name=NAME_60,
    version="1",
    classes=CLASSES_60,
    palette=bit_colours(range(60)),
    open=partial(_open, NAME_60, 0),
    published_counts=PUBLISHED_COUNTS,
)
