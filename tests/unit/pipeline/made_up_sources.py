"""Tiny data sets in the formats they are published in, each with what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from pipeline.datasets import Request, find_layout

SHAPE = (14, 19)
"""With room for all ids of 8 bits."""
Ids = NDArray[np.generic]


@dataclass
class MadeUp:
    """A data set folder, how to ask for it, and the samples it stands for."""

    layout: str
    request: Request
    images: dict[tuple[str, str], Path] = field(default_factory=dict)
    """(split, key) -> the image's file."""
    labels: dict[tuple[str, str], Ids] = field(default_factory=dict)
    """(split, key) -> (H, W) train ids, 255 = ignore."""

    def add(self, split: str, key: str, image: Path, label: Ids) -> None:
        self.images[split, key] = image
        self.labels[split, key] = label


def random_ids(known: Iterable[int], seed: int = 0) -> NDArray[np.uint16]:
    """(H, W) with all of the ids."""
    ids = np.resize(np.array(sorted(known), np.uint16), SHAPE[0] * SHAPE[1])
    return np.random.default_rng(seed).permutation(ids).reshape(SHAPE)


def write_image(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    """A picture of its own, as JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + sum(path.name.encode())).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_grey(path: Path, ids: Ids) -> Path:
    """An annotation of one 8-bit channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)
    return path


def write_palette(path: Path, ids: Ids) -> Path:
    """An annotation of positions in a palette; the palette's colours say nothing, and some are twice there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png = Image.fromarray(ids.astype(np.uint8)).convert("P")
    png.putdata(ids.astype(np.uint8).ravel().tolist())
    png.putpalette((np.arange(768) * 7 % 200).astype(np.uint8).tobytes())
    png.save(path)
    return path


def write_mat(path: Path, contents: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, contents, do_compression=True)
    return path


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read_all(request: Request, layout: str) -> None:
    """All samples of all splits; raises what their reading raises."""
    for split in find_layout(layout).open(request).splits.values():
        list(split.samples)


def own_folder(root: Path) -> MadeUp:
    made = MadeUp("folder", Request(source=root))
    write_lines(root / "classes.txt", ["road 128 64 128", "traffic light 250 170 30", "sky 70 130 180"])
    for split, name, write in (
        ("test", "a.jpeg", write_grey),
        ("train", "a.jpg", write_grey),
        ("train", "b c.PNG", write_palette),
    ):
        ids = random_ids([0, 1, 2, 255])
        key = name.rpartition(".")[0]
        write(root / "annotations" / split / f"{key}.png", ids)
        made.add(split, key, write_image(root / "images" / split / name), ids)
    write_lines(root / "images/train/.b c.png", ["no image: hidden"])
    return made


def ade20k(root: Path) -> MadeUp:
    made = MadeUp("ade20k", Request(source=root))
    for split, folder, key in (("train", "training", "ADE_train_00000001"), ("val", "validation", "ADE_val_00000001")):
        ids = random_ids(range(151), seed=len(split))
        write_grey(root / f"annotations/{folder}/{key}.png", ids)
        label = np.where(ids == 0, 255, ids.astype(np.int64) - 1)
        made.add(split, key, write_image(root / f"images/{folder}/{key}.jpg"), label)
    return made


CITYSCAPES_TRAIN_IDS = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                    255, 255, 16, 17, 18]  # fmt: skip
"""Of ids 0 to 33."""


def cityscapes(root: Path) -> MadeUp:
    made = MadeUp("cityscapes", Request(source=root))
    for split, city, number in (
        ("train", "aachen", "000000_000019"), ("train", "zurich", "000000_000019"), ("val", "lindau", "000001_000019"),
    ):  # fmt: skip
        key, ids = f"{city}_{number}", random_ids(range(34))
        stem = root / "gtFine" / split / city / key
        write_grey(stem.with_name(f"{key}_gtFine_labelIds.png"), ids)
        for other in ("instanceIds", "color"):
            write_grey(stem.with_name(f"{key}_gtFine_{other}.png"), ids * 0)
        image = write_image(root / "leftImg8bit" / split / city / f"{key}_leftImg8bit.png")
        made.add(split, key, image, np.array(CITYSCAPES_TRAIN_IDS)[ids])
    return made


def voc2012(root: Path, splits: tuple[str, ...] | None = None) -> MadeUp:
    """Ids 2007_000032 and 2007_000039 for training, 2007_000033 for validation."""
    made = MadeUp("voc2012", Request(source=root, splits=splits))
    lists = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    for split, keys in lists.items():
        write_lines(root / f"ImageSets/Segmentation/{split}.txt", keys)
        for key in keys:
            ids = random_ids([*range(21), 255], seed=int(key[-2:]))
            write_palette(root / f"SegmentationClass/{key}.png", ids)
            image = write_image(root / f"JPEGImages/{key}.jpg")
            for name in (split, "trainval"):
                if name in (splits or ("train", "val")):
                    made.add(name, key, image, ids)
    write_lines(root / "ImageSets/Segmentation/trainval.txt", [key for keys in lists.values() for key in keys])
    write_image(root / "JPEGImages/2012_000001.jpg")  # of another task
    return made


def voc2012_all(root: Path) -> MadeUp:
    return voc2012(root, splits=("trainval", "train"))


def voc2012_sbd(root: Path) -> MadeUp:
    """SBD has labels of its own for one image of VOC's train and one of val, and two that VOC has none for."""
    voc, sbd = voc2012(root / "VOC2012"), root / "benchmark_RELEASE"
    made = MadeUp("voc2012-aug", Request(source=root / "VOC2012", sbd=sbd), voc.images, voc.labels)
    lists = {"train": ["2008_000008", "2007_000033"], "val": ["2007_000032", "2008_000002"]}
    for split, keys in lists.items():
        write_lines(sbd / f"dataset/{split}.txt", keys)
        for key in keys:
            ids = random_ids(range(21), seed=int(key[-2:]) + 7)
            boundaries = np.empty((20, 1), object)
            boundaries[:] = [[np.zeros(SHAPE, np.uint8)]] * 20
            struct = {"Boundaries": boundaries, "Segmentation": ids.astype(np.uint8), "CategoriesPresent": [[1.0, 2.0]]}
            write_mat(sbd / f"dataset/cls/{key}.mat", {"GTcls": struct})
            image = write_image(sbd / f"dataset/img/{key}.jpg")
            if key.startswith("2008"):
                made.add("train", key, image, ids)
    return made


def voc2012_prepared(root: Path) -> MadeUp:
    """SegmentationClassAug holds VOC's images and one more."""
    voc = voc2012(root)
    made = MadeUp("voc2012-aug", Request(source=root), voc.images, voc.labels)
    for key in ("2007_000032", "2007_000033", "2007_000039", "2008_000008"):
        write_grey(root / f"SegmentationClassAug/{key}.png", random_ids(range(21), seed=99))
    made.add("train", "2008_000008", write_image(root / "JPEGImages/2008_000008.jpg"), random_ids(range(21), seed=99))
    return made


CONTEXT_SPOTS = {0: None, 1: None, 2: "aeroplane", 9: "bag", 284: "person", 283: None, 308: "pottedplant",
                 397: "table", 427: "tvmonitor", 458: "wood", 459: None}  # fmt: skip
"""Released id -> its name in labels.txt, where it is one of the 59."""
CONTEXT_POSITIONS = {
    "aeroplane": 0,
    "bag": 1,
    "person": 36,
    "pottedplant": 39,
    "table": 49,
    "tvmonitor": 54,
    "wood": 58,
}
"""Among the 59, by the alphabet."""


def _context(root: Path, num_classes: int, lists: str, write: Callable[[str], Ids]) -> MadeUp:
    made = MadeUp(f"pascal-context-{num_classes}", Request(source=root))
    for split, key in (("train", "2008_000002"), ("val", "2008_000003")):
        write_lines(root / f"ImageSets/{lists}/{split}.txt", [key])
        number = write(key)  # 0 for none of the classes, else 1 to 59
        label = number if num_classes == 60 else np.where(number == 0, 255, number.astype(np.int64) - 1)
        made.add(split, key, write_image(root / f"JPEGImages/{key}.jpg"), label)
    return made


def _released(root: Path, num_classes: int) -> MadeUp:
    def write(key: str) -> Ids:
        ids = random_ids(CONTEXT_SPOTS, seed=int(key[-1]))
        write_mat(root / f"trainval/{key}.mat", {"LabelMap": ids})
        numbers = {id_: CONTEXT_POSITIONS[name] + 1 if name else 0 for id_, name in CONTEXT_SPOTS.items()}
        return np.vectorize(numbers.get)(ids)

    return _context(root, num_classes, "Main", write)


def _prepared(root: Path, num_classes: int) -> MadeUp:
    def write(key: str) -> Ids:
        ids = random_ids(range(60), seed=int(key[-1]))
        write_grey(root / f"SegmentationClassContext/{key}.png", ids)
        return ids

    return _context(root, num_classes, "SegmentationContext", write)


def context59_released(root: Path) -> MadeUp:
    return _released(root, 59)


def context60_released(root: Path) -> MadeUp:
    return _released(root, 60)


def context59_prepared(root: Path) -> MadeUp:
    return _prepared(root, 59)


def context60_prepared(root: Path) -> MadeUp:
    return _prepared(root, 60)


NAMES_59 = ("aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, "
            "person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, building, cabinet, ceiling, "
            "clothes, computer, cup, door, fence, floor, flower, food, grass, ground, keyboard, light, mountain, "
            "mouse, curtain, platform, sign, plate, road, rock, shelves, sidewalk, sky, snow, bedcloth, track, "
            "tree, truck, wall, water, window, wood")  # fmt: skip
"""As 59_labels.txt has them: VOC's 20 first."""


def _short(root: Path, num_classes: int) -> MadeUp:
    names = NAMES_59.split(", ")
    write_lines(root / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(names, start=1)])
    known = [{"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}.get(name, name) for name in names]
    alphabet = sorted(known)

    def write(key: str) -> Ids:
        ids = random_ids(range(60), seed=int(key[-1]))
        write_palette(root / f"59_context_labels/{key}.png", ids)
        return np.array([0, *(alphabet.index(name) + 1 for name in known)])[ids]

    return _context(root, num_classes, "Main", write)


def context59_short(root: Path) -> MadeUp:
    return _short(root, 59)


def context60_short(root: Path) -> MadeUp:
    return _short(root, 60)


CAMVID_COLOURS = {
    (128, 128, 128): 0, (64, 0, 64): 1, (0, 0, 64): 2, (192, 0, 64): 3, (64, 192, 128): 4, (192, 192, 0): 5,
    (0, 64, 64): 6, (64, 64, 128): 7, (64, 128, 192): 8, (192, 128, 64): 9, (192, 0, 192): 10, (0, 0, 0): 255,
}  # fmt: skip
"""Of Sky, Tunnel, TrafficCone, LaneMkgsNonDriv, ParkingBlock, VegetationMisc, TrafficLight, Fence, SUVPickupTruck,
Child, MotorcycleScooter and Void -> the id of the class they go to."""


def write_camvid_frame(root: Path, key: str) -> tuple[Path, Ids]:
    positions = random_ids(range(12), seed=len(key))
    annotation = root / f"LabeledApproved_full/{key}_L.png"
    annotation.parent.mkdir(parents=True, exist_ok=True)
    colours = np.array(list(CAMVID_COLOURS), np.uint8)[positions]
    cv2.imwrite(str(annotation), colours[..., ::-1])
    return write_image(root / f"701_StillsRaw_full/{key}.png"), np.array(list(CAMVID_COLOURS.values()))[positions]


def camvid_original(root: Path, splits: tuple[str, ...] | None = None) -> MadeUp:
    made = MadeUp("camvid-original", Request(source=root, splits=splits))
    for split, key in (
        ("train", "0001TP_008520"), ("test", "0001TP_008550"), ("train", "0006R0_f00930"), ("train", "0016E5_07920"),
        ("val", "0016E5_07959"), ("val", "0016E5_08159"), ("train", "0016E5_08190"), ("test", "Seq05VD_f00000"),
    ):  # fmt: skip
        image, label = write_camvid_frame(root, key)
        if split in (splits or ("train", "val")):
            made.add(split, key, image, label)
    return made


def camvid_test(root: Path) -> MadeUp:
    return camvid_original(root, splits=("test",))


COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""COCO's category ids, from 1 on, that nothing is annotated with."""


def _coco(root: Path, write: Callable[[str], Ids]) -> MadeUp:
    made = MadeUp("coco-stuff", Request(source=root))
    for split, key in (("train", "000000000009"), ("val", "000000000139")):
        label = write(f"annotations/{split}2017/{key}")
        made.add(split, key, write_image(root / f"images/{split}2017/{key}.jpg"), label)
    return made


def coco_raw(root: Path) -> MadeUp:
    used = [category for category in range(1, 183) if category not in COCO_UNUSED]

    def write(stem: str) -> Ids:
        ids = random_ids([category - 1 for category in used] + [255], seed=len(stem))
        write_grey(root / f"{stem}.png", ids)
        return np.vectorize(lambda raw: 255 if raw == 255 else used.index(raw + 1))(ids)

    return _coco(root, write)


def coco_train_ids(root: Path) -> MadeUp:
    def write(stem: str) -> Ids:
        ids = random_ids([*range(171), 255])
        write_grey(root / f"{stem}_labelTrainIds.png", ids)
        write_grey(root / f"{stem}.png", ids * 0)  # what it was converted from
        return ids

    return _coco(root, write)


BUILDERS: tuple[Callable[[Path], MadeUp], ...] = (
    own_folder, ade20k, cityscapes, voc2012, voc2012_all, voc2012_sbd, voc2012_prepared, context59_released,
    context60_released, context59_prepared, context60_prepared, context59_short, context60_short,
    camvid_original, camvid_test, coco_raw, coco_train_ids,
)  # fmt: skip
