"""CamVid in its 11-class form (Brostow et al., 2008; the split of SegNet).

images/{train,val}/X.jpg|png    annotations/{train,val}/X.png: ids 0..10, 11 = void -> 255
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.datasets.layout import Layout, Request, Source, SplitSource, fingerprint, pair_files, refuse_options
from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX, Sample
from pipeline.transforms import decode_label

NAME = "camvid"
VOID = 11
SPLITS = ("train", "val")
_COLOURS = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (0, 0, 192),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
CLASSES = tuple(_COLOURS)
PALETTE = tuple(_COLOURS.values())


def samples(folder: Path, pairs: list[tuple[Path, Path]]) -> Iterator[Sample]:
    """The (image, annotation) pairs as samples. InputError naming a file that can't be used."""
    for image, annotation in pairs:
        yield Sample(
            key=image.stem,
            image=image.read_bytes(),
            extension=image.suffix.lower().lstrip("."),
            label=_read_label(annotation),
            source=image.relative_to(folder).as_posix(),
        )


def _read_label(path: Path) -> np.ndarray:
    try:
        label = decode_label(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: the annotation can't be used, it {error}: replace it") from error
    highest = int(label.max())
    if highest > VOID:
        raise InputError(f"{path}: holds the id {highest}: ids are 0 to {VOID - 1}, and {VOID} for void")
    return np.where(label == VOID, np.uint8(IGNORE_INDEX), label)


def open_source(request: Request) -> Source:
    """The two splits below the request's folder. InputError when it is not laid out as above."""
    if request.source is None:
        raise InputError("source: is missing: give --source, the folder that holds CamVid's images/ and annotations/")
    refuse_options(request, NAME, ("train_samples", "val_samples", "seed"), "it is read from --source whole")
    folder = request.source
    pairs = {
        split: pair_files(folder / "images" / split, folder / "annotations" / split, ("jpg", "png")) for split in SPLITS
    }
    files = [path for split in pairs.values() for pair in split for path in pair]
    return Source(
        arguments={"files": len(files), "fingerprint": fingerprint(folder, files)},
        splits={split: SplitSource(count=len(found), samples=samples(folder, found)) for split, found in pairs.items()},
    )


LAYOUT = Layout(name=NAME, version="1", classes=CLASSES, palette=PALETTE, open=open_source)
