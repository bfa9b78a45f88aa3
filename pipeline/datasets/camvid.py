"""CamVid (Brostow et al., 2008) with the 11 classes and the split of SegNet.

camvid            images/{train,val}/X.jpg|png    annotations/{train,val}/X.png: ids 0..10, 11 = void -> 255
camvid-original   701_StillsRaw_full/X.png        LabeledApproved_full/X_L.png: the colours of 32 classes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.datasets.annotations import TrainIds, read_bytes
from pipeline.datasets.labelled_files import Pair, pair_files, read_source
from pipeline.datasets.layout import Layout, Request, Source, chosen_splits, source_folder
from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import Label, decode_image

NAME = "camvid"
ORIGINAL_NAME = "camvid-original"
VOID = 11
SPLITS = ("train", "val")
ORIGINAL_SPLITS = ("train", "val", "test")
PUBLISHED_COUNTS = {"train": 367, "val": 101, "test": 233}
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
ORIGINAL_COLOURS = {
    "Sky": {"Sky": (128, 128, 128)},
    "Building": {
        "Building": (128, 0, 0), "Archway": (192, 0, 128), "Bridge": (0, 128, 64), "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "Pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "Road": {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
    "Pavement": {"Sidewalk": (0, 0, 192), "ParkingBlock": (64, 192, 128), "RoadShoulder": (128, 128, 192)},
    "Tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "SignSymbol": {"SignSymbol": (192, 128, 128), "Misc_Text": (128, 128, 64), "TrafficLight": (0, 64, 64)},
    "Fence": {"Fence": (64, 64, 128)},
    "Car": {
        "Car": (64, 0, 128), "SUVPickupTruck": (64, 128, 192), "Truck_Bus": (192, 128, 192), "Train": (192, 64, 128),
        "OtherMoving": (128, 64, 64),
    },
    "Pedestrian": {
        "Pedestrian": (64, 64, 0), "Child": (192, 128, 64), "CartLuggagePram": (64, 0, 192), "Animal": (64, 128, 64),
    },
    "Bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
}  # fmt: skip
"""Class -> those of the 32 that it takes in; Void is left. Source: camvidPixelLabelIDs of MATLAB's SegNet example."""
MAX_UNKNOWN_SHARE = 0.001
"""Of a picture's pixels: the release's Seq05VD_f02610_L.png has some 250 in colours of no class, which are void."""
_TRAIN_IDS = TrainIds(
    of={number: number for number in range(VOID)} | {VOID: IGNORE_INDEX},
    allowed=f"ids are 0 to {VOID - 1}, and {VOID} for void",
)


def open_source(request: Request) -> Source:
    """The splits below the request's folder. InputError when it is not laid out as above."""
    folder = source_folder(request, NAME, "CamVid's images/ and annotations/")
    pairs = {
        split: pair_files(folder / "images" / split, folder / "annotations" / split)
        for split in chosen_splits(request, SPLITS)
    }
    return read_source(folder, pairs, _TRAIN_IDS.read)


def open_original(request: Request) -> Source:
    """The frames of the release, by SegNet's split. InputError when it is not laid out as above."""
    folder = source_folder(request, ORIGINAL_NAME, "CamVid's 701_StillsRaw_full/ and LabeledApproved_full/")
    pairs = pair_files(
        folder / "701_StillsRaw_full", folder / "LabeledApproved_full", image_ends=(".png",), annotation_end="_L.png"
    )
    splits: dict[str, list[Pair]] = {split: [] for split in chosen_splits(request, ORIGINAL_SPLITS, SPLITS)}
    for pair in pairs:
        split = split_of(pair)
        if split in splits:
            splits[split].append(pair)
    return read_source(folder, splits, read_colours)


def split_of(pair: Pair) -> str:
    """SegNet's split, which goes by sequence and frame number. InputError for a frame of no sequence of CamVid's."""
    sequence, _, frame = pair.key.partition("_")
    number = frame.lstrip("f")
    if number.isdecimal():
        if sequence == "0016E5":
            return "val" if 7959 <= int(number) <= 8159 else "train"
        if sequence == "0001TP":
            return "train" if int(number) <= 8520 else "test"
        if sequence in ("0006R0", "Seq05VD"):
            return "train" if sequence == "0006R0" else "test"
    raise InputError(f"{pair.image}: is no frame of CamVid's, such as 0016E5_08159.png: remove it and its annotation")


def _pack(colours: np.ndarray) -> np.ndarray:
    """(..., 3) RGB -> (...) numbers of 24 bits."""
    return np.asarray(colours, np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


_ID_OF_COLOUR = {
    int(_pack(np.array(colour))): CLASSES.index(name)
    for name, members in ORIGINAL_COLOURS.items()
    for colour in members.values()
} | {0: IGNORE_INDEX}


def read_colours(path: Path) -> Label:
    """An annotation in the colours of the 32 classes -> (H, W) train ids. InputError naming the file and a colour."""
    try:
        pixels = _pack(decode_image(read_bytes(path), "png"))
    except ValueError as error:
        raise InputError(f"{path}: the annotation can't be used, it {error}: replace it") from error
    known = np.array(sorted(_ID_OF_COLOUR))
    place = np.searchsorted(known, pixels).clip(max=len(known) - 1)
    unknown = known[place] != pixels
    if unknown.mean() > MAX_UNKNOWN_SHARE:
        colour = int(pixels[unknown][0])
        raise InputError(
            f"{path}: holds the colour {(colour >> 16, colour >> 8 & 255, colour & 255)}: "
            "give the release's PNGs, in the colours of its 32 classes"
        )
    label = np.array([_ID_OF_COLOUR[colour] for colour in known.tolist()], np.uint8)[place]
    label[unknown] = IGNORE_INDEX
    return label


LAYOUT = Layout(
    name=NAME, version="1", classes=CLASSES, palette=PALETTE, open=open_source, published_counts=PUBLISHED_COUNTS
)
ORIGINAL = Layout(
    name=ORIGINAL_NAME,
    version="1",
    classes=CLASSES,
    palette=PALETTE,
    open=open_original,
    published_counts=PUBLISHED_COUNTS,
)
