"""PASCAL VOC 2012 segmentation (Everingham et al.), as it is and with SBD's annotations (Hariharan et al., 2011).

Both read the VOC2012 folder of the development kit:

    JPEGImages/X.jpg    SegmentationClass/X.png: ids 0..20, border = 255    ImageSets/Segmentation/{split}.txt

voc2012-aug trains on all that VOC or SBD has labelled, but for VOC's val. What VOC has not labelled comes from
--sbd, SBD's benchmark_RELEASE, or without it from SegmentationClassAug in the VOC2012 folder:

    dataset/img/X.jpg   dataset/cls/X.mat: GTcls.Segmentation   dataset/{train,val}.txt
    JPEGImages/X.jpg    SegmentationClassAug/X.png
"""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets.annotations import TrainIds, bit_colours, consecutive, read_mat
from pipeline.datasets.labelled_files import Pair, find_files, pair_listed, read_list, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.errors import InputError
from pipeline.transforms import Label

NAME = "voc2012"
AUGMENTED_NAME = "voc2012-aug"
SPLITS = ("train", "val")
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PALETTE = bit_colours(range(len(CLASSES)))
AUGMENTED_FOLDER = "SegmentationClassAug"
_CONTENTS = "VOC2012's JPEGImages/, SegmentationClass/ and ImageSets/"
_TRAIN_IDS = TrainIds(
    of=consecutive(len(CLASSES)), allowed=f"ids are 0 to {len(CLASSES) - 1}, and 255 for borders between objects"
)


def open_source(request: Request) -> Source:
    """The splits that VOC lists. InputError when the folder is not laid out as above."""
    folder = source_folder(request, NAME, _CONTENTS)
    chosen = chosen_splits(request, (*SPLITS, "trainval"), SPLITS)
    pairs = {split: _listed(folder, read_list(_list_file(folder, split))) for split in chosen}
    return read_source(folder, pairs, read_label, lists=[_list_file(folder, split) for split in chosen])


def open_augmented(request: Request) -> Source:
    """`train` with SBD's annotations, and VOC's val. InputError when a folder is not laid out as above."""
    folder = source_folder(request, AUGMENTED_NAME, _CONTENTS, uses=("sbd",))
    keys = {split: read_list(_list_file(folder, split)) for split in SPLITS}
    more = _find_augmented(folder) if request.sbd is None else _find_sbd(request.sbd)
    # VOC's own annotations are the finer ones: theirs go first.
    labelled = set(keys["train"]) | set(keys["val"])
    splits = {
        "train": _listed(folder, keys["train"]) + [pair for pair in more if pair.key not in labelled],
        "val": _listed(folder, keys["val"]),
    }
    chosen = {split: splits[split] for split in chosen_splits(request, SPLITS)}
    return read_source(
        folder,
        chosen,
        read_label,
        lists=[_list_file(folder, split) for split in SPLITS],
        other_folder=request.sbd,
    )


def read_label(path: Path) -> Label:
    """VOC's or SBD's annotation -> (H, W) train ids. InputError naming the file when it can't be used."""
    if path.suffix == ".mat":
        return _TRAIN_IDS.renumber(read_mat(path, "GTcls", "Segmentation"), path)
    return _TRAIN_IDS.read(path)


def _list_file(folder: Path, split: str) -> Path:
    return folder / "ImageSets" / "Segmentation" / f"{split}.txt"


def _listed(folder: Path, keys: list[str]) -> list[Pair]:
    return pair_listed(keys, folder / "JPEGImages", folder / "SegmentationClass")


def _find_sbd(folder: Path) -> list[Pair]:
    """SBD's train and val, sorted. InputError when a key is in both."""
    folder /= "dataset"
    train, val = (read_list(folder / f"{split}.txt") for split in SPLITS)
    twice = sorted(set(train) & set(val))
    if twice:
        raise InputError(
            f"{folder / 'val.txt'}: names {twice[0]!r}, as train.txt does: restore the lists of the release"
        )
    return pair_listed(sorted(train + val), folder / "img", folder / "cls", annotation_end=".mat")


def _find_augmented(folder: Path) -> list[Pair]:
    """All that SegmentationClassAug holds, sorted. InputError when there is no such folder, or it has no image."""
    if not (folder / AUGMENTED_FOLDER).is_dir():
        raise InputError(
            f"{folder / AUGMENTED_FOLDER}: there is no such folder: put SBD's annotations there as PNGs, "
            "or give --sbd, SBD's folder benchmark_RELEASE"
        )
    found = find_files(folder / AUGMENTED_FOLDER, (".png",))
    images = folder / "JPEGImages"
    for key, path in found.items():
        if not (images / f"{key}.jpg").is_file():
            raise InputError(f"{path}: has no image in {images}: add it or remove the annotation")
    return [Pair(key=key, image=images / f"{key}.jpg", annotation=path) for key, path in found.items()]


LAYOUT = Layout(
    name=NAME,
    version="1",
    classes=CLASSES,
    palette=PALETTE,
    open=open_source,
    published_counts={"train": 1464, "val": 1449, "trainval": 2913},
)
AUGMENTED = Layout(
    name=AUGMENTED_NAME,
    version="1",
    classes=CLASSES,
    palette=PALETTE,
    open=open_augmented,
    published_counts={"train": 10582, "val": 1449},
)
