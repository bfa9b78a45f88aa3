"""Layouts that are read from folders: what they say of requests and files that can't be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.datasets import LAYOUTS, Request, find_layout
from pipeline.errors import InputError
from pipeline.storage import LocalStore
from tests.unit.pipeline import made_up_sources as sources
from tests.unit.pipeline.made_up_sources import MadeUp, read_all, write_grey, write_image, write_lines, write_mat
from workflows.prepare import prepare_dataset

Builder = Callable[[Path], MadeUp]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "context-scenes"])
def test_every_layout_asks_for_its_folder_and_refuses_what_it_has_no_use_for(layout: str, tmp_path: Path) -> None:
    for request, message in (
        (Request(), "source: is missing: give --source, the folder that holds "),
        (Request(source=tmp_path, seed=1), f"seed: 1 is nothing for layout {layout!r}: it is read from --source whole"),
        (Request(source=tmp_path), f"{tmp_path}/"),
        (Request(source=tmp_path / "none"), f"{tmp_path}/none"),
    ):
        with pytest.raises(InputError) as caught:
            find_layout(layout).open(request)
        assert str(caught.value).startswith(message)
    if layout != "voc2012-aug":
        with pytest.raises(InputError, match=r"sbd: .* is nothing for layout .*: it is for layout 'voc2012-aug'"):
            find_layout(layout).open(Request(source=tmp_path, sbd=tmp_path))


def test_splits_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_layout("voc2012").open(Request(source=tmp_path, splits=("trainvl",)))
    assert str(caught.value) == "splits: 'trainvl' is not known: did you mean 'trainval'?"
    made = sources.own_folder(tmp_path)
    with pytest.raises(InputError) as caught:
        find_layout("folder").open(Request(source=made.request.source, splits=("train", "x")))
    assert str(caught.value) == "splits: 'x' is not known: known: test, train"
    with pytest.raises(InputError) as caught:
        find_layout("context-scenes").open(Request(splits=("train",)))
    assert str(caught.value) == "splits: train is nothing for layout 'context-scenes': it is generated whole"


def test_sbd_has_to_be_somewhere(tmp_path: Path) -> None:
    made = sources.voc2012(tmp_path)
    with pytest.raises(InputError) as caught:
        find_layout("voc2012-aug").open(made.request)
    assert str(caught.value) == (
        f"{tmp_path}/SegmentationClassAug: there is no such folder: put SBD's annotations there as PNGs, "
        "or give --sbd, SBD's folder benchmark_RELEASE"
    )


def _spoil(name: str, ids: object) -> Callable[[Path], object]:
    return lambda root: write_grey(root / name, np.full(sources.SHAPE, ids))


def _remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def _image(name: str) -> Callable[[Path], object]:
    return lambda root: write_image(root / name)


def _lines(name: str, *lines: str) -> Callable[[Path], object]:
    return lambda root: write_lines(root / name, lines)


def _mat(name: str, contents: dict[str, object]) -> Callable[[Path], object]:
    return lambda root: write_mat(root / name, contents)


def _bytes(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-40])


def _flip(name: str) -> Callable[[Path], object]:
    """One bit, in the checksum of what is compressed."""

    def spoil(root: Path) -> object:
        data = bytearray((root / name).read_bytes())
        data[-1] ^= 1
        return (root / name).write_bytes(data)

    return spoil


FAULTS: list[tuple[Builder, Callable[[Path], object], str]] = [
    (
        sources.ade20k,
        _spoil("annotations/training/ADE_train_00000001.png", 151),
        "{}/annotations/training/ADE_train_00000001.png: holds the id 151: "
        "ids are 1 to 150, and 0 for none of the classes",
    ),
    (
        sources.ade20k,
        _remove("annotations/validation/ADE_val_00000001.png"),
        "{}/images/validation/ADE_val_00000001.jpg: has no annotation "
        "{}/annotations/validation/ADE_val_00000001.png: add it or remove the image",
    ),
    (
        sources.cityscapes,
        _spoil("gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png", 34),
        "{}/gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png: holds the id 34: "
        "ids are 0 to 33: give the _gtFine_labelIds.png files of the release",
    ),
    (
        sources.cityscapes,
        _remove("gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png"),
        "{}/leftImg8bit/train/zurich/zurich_000000_000019_leftImg8bit.png: has no annotation "
        "{}/gtFine/train/zurich/zurich_000000_000019_gtFine_labelIds.png: add it or remove the image",
    ),
    (
        sources.cityscapes,
        _image("leftImg8bit/train/zurich/aachen_000000_000019_leftImg8bit.png"),
        "{}/leftImg8bit/train/zurich/aachen_000000_000019_leftImg8bit.png: "
        "aachen/aachen_000000_000019_leftImg8bit.png has the same name: keep one of them",
    ),
    (
        sources.voc2012,
        _spoil("SegmentationClass/2007_000039.png", 21),
        "{}/SegmentationClass/2007_000039.png: holds the id 21: ids are 0 to 20, and 255 for borders between objects",
    ),
    (
        sources.voc2012,
        _remove("SegmentationClass/2007_000039.png"),
        "{}/SegmentationClass/2007_000039.png: is missing, though '2007_000039' is listed: "
        "restore it or shorten the list",
    ),
    (
        sources.voc2012,
        _remove("JPEGImages/2007_000033.jpg"),
        "{}/JPEGImages/2007_000033.jpg: is missing, though '2007_000033' is listed: restore it or shorten the list",
    ),
    (
        sources.voc2012,
        _lines("ImageSets/Segmentation/train.txt", "2007_000039", "2007_000039"),
        "{}/ImageSets/Segmentation/train.txt: names '2007_000039' twice: remove one",
    ),
    (
        sources.voc2012,
        _lines("ImageSets/Segmentation/val.txt"),
        "{}/ImageSets/Segmentation/val.txt: names no images: restore it",
    ),
    (
        sources.voc2012,
        _bytes("ImageSets/Segmentation/val.txt", b"\xff\n"),
        "{}/ImageSets/Segmentation/val.txt: is no text in UTF-8: save it as such",
    ),
    (
        sources.voc2012,
        _remove("ImageSets/Segmentation/val.txt"),
        "{}/ImageSets/Segmentation/val.txt: there is no such file: check --source",
    ),
    (
        sources.voc2012,
        _truncate("SegmentationClass/2007_000039.png"),
        "{}/SegmentationClass/2007_000039.png: the annotation can't be used, it can't be decoded "
        "as an image (image file is truncated): replace it",
    ),
    (
        sources.voc2012_sbd,
        _mat("benchmark_RELEASE/dataset/cls/2008_000002.mat", {"GTinst": 1}),
        "{}/benchmark_RELEASE/dataset/cls/2008_000002.mat: the annotation can't be used, "
        "it holds no GTcls.Segmentation: replace it",
    ),
    (
        sources.voc2012_sbd,
        _mat("benchmark_RELEASE/dataset/cls/2008_000002.mat", {"GTcls": {"Segmentation": np.zeros(sources.SHAPE)}}),
        "{}/benchmark_RELEASE/dataset/cls/2008_000002.mat: the annotation can't be used, it holds "
        "GTcls.Segmentation as float64 of shape (14, 19), not as (height, width) of 8 or 16 bits: replace it",
    ),
    (
        sources.voc2012_sbd,
        _bytes("benchmark_RELEASE/dataset/cls/2008_000002.mat", b"no MATLAB file"),
        "{}/benchmark_RELEASE/dataset/cls/2008_000002.mat: the annotation can't be used, it is no MATLAB "
        "file of version 5 to 7 (that -v7 saves): replace it",
    ),
    (
        sources.context59_released,
        _flip("trainval/2008_000003.mat"),
        "{}/trainval/2008_000003.mat: the annotation can't be used, it is damaged: "
        "Error -3 while decompressing data: incorrect data check: replace it",
    ),
    (
        sources.voc2012_sbd,
        _lines("benchmark_RELEASE/dataset/val.txt", "2008_000008"),
        "{}/benchmark_RELEASE/dataset/val.txt: names '2008_000008', as train.txt does: "
        "restore the lists of the release",
    ),
    (
        sources.voc2012_prepared,
        _remove("JPEGImages/2008_000008.jpg"),
        "{}/SegmentationClassAug/2008_000008.png: has no image in {}/JPEGImages: add it or remove the annotation",
    ),
    (
        sources.context59_released,
        _mat("trainval/2008_000003.mat", {"LabelMap": np.full(sources.SHAPE, 460, np.uint16)}),
        "{}/trainval/2008_000003.mat: holds the id 460: ids are 1 to 459, and 0 for what is none of them",
    ),
    (
        sources.context60_prepared,
        _spoil("SegmentationClassContext/2008_000003.png", 60),
        "{}/SegmentationClassContext/2008_000003.png: holds the id 60: ids are 1 to 59, and 0 for what is none of them",
    ),
    (
        sources.context60_short,
        _lines("59_labels.txt", "1: aeroplane", "bag"),
        "{}/59_labels.txt: has no line for 'bag': restore the release's, of lines `id: name`",
    ),
    (
        sources.context60_short,
        _lines("59_labels.txt", *(f"7: {name}" for name in sources.NAMES_59.split(", "))),
        "{}/59_labels.txt: does not give each of the 59 classes one of the ids 1 to 59: restore the release's",
    ),
    (
        sources.camvid_original,
        _remove("LabeledApproved_full/0016E5_07959_L.png"),
        "{}/701_StillsRaw_full/0016E5_07959.png: has no annotation {}/LabeledApproved_full/0016E5_07959_L.png: "
        "add it or remove the image",
    ),
    (
        sources.camvid_original,
        lambda root: sources.write_camvid_frame(root, "mine_1"),
        "{}/701_StillsRaw_full/mine_1.png: is no frame of CamVid's, such as 0016E5_08159.png: "
        "remove it and its annotation",
    ),
    (
        sources.coco_raw,
        _spoil("annotations/val2017/000000000139.png", 11),
        "{}/annotations/val2017/000000000139.png: holds the id 11: "
        "give the release's stuffthingmaps, whose ids are COCO's category ids - 1",
    ),
    (
        sources.coco_train_ids,
        _spoil("annotations/val2017/000000000139_labelTrainIds.png", 171),
        "{}/annotations/val2017/000000000139_labelTrainIds.png: holds the id 171: "
        "ids are 0 to 170, and 255 for what is unlabelled",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("build", "spoil", "message"), FAULTS)
def test_what_is_wrong_is_named(build: Builder, spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    made = build(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        read_all(made.request, made.layout)
    assert str(caught.value).startswith(message.replace("{}", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_label_of_another_size_names_its_image(tmp_path: Path) -> None:
    made = sources.voc2012(tmp_path / "source")
    write_grey(tmp_path / "source/SegmentationClass/2007_000039.png", np.zeros(sources.SHAPE[::-1]))
    with pytest.raises(InputError) as caught:
        prepare_dataset(
            find_layout("voc2012"), made.request, LocalStore(root=tmp_path / "out"), console=Console(quiet=True)
        )
    assert str(caught.value) == (
        "JPEGImages/2007_000039.jpg: the image is 19x14, its annotation 14x19: they must be of one size"
    )
