"""Layouts that are read from folders: what comes of them."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.datasets import ade20k, camvid, cityscapes, coco_stuff, find_layout, pascal_context
from pipeline.errors import InputError
from pipeline.storage import LocalStore
from pipeline.transforms import decode_label
from tests.unit.pipeline import made_up_sources as sources
from tests.unit.pipeline.made_up_sources import BUILDERS, MadeUp, read_all, write_lines
from workflows.prepare import missing_samples, prepare_dataset

Builder = Callable[[Path], MadeUp]


@pytest.mark.parametrize("build", BUILDERS, ids=[build.__name__ for build in BUILDERS])
def test_samples_are_the_files_and_their_train_ids(build: Builder, tmp_path: Path) -> None:
    made = build(tmp_path)
    source = find_layout(made.layout).open(made.request)
    assert sum(len(split.samples) for split in source.splits.values()) == len(made.images)
    for split, found in source.splits.items():
        samples = {sample.key: sample for sample in found.samples}
        assert len(samples) == len(found.samples)
        assert set(samples) == {key for name, key in made.images if name == split}
        for key, sample in samples.items():
            image = made.images[split, key]
            assert sample.image == image.read_bytes()
            assert sample.extension == {"jpeg": "jpg"}.get(image.suffix[1:].lower(), image.suffix[1:].lower())
            assert sample.source in {
                image.relative_to(root).as_posix()
                for root in (made.request.source, made.request.sbd)
                if root and image.is_relative_to(root)
            }
            assert sample.label.dtype == np.uint8
            np.testing.assert_array_equal(sample.label, made.labels[split, key], err_msg=f"{split}/{key}")


@pytest.mark.parametrize("build", BUILDERS, ids=[build.__name__ for build in BUILDERS])
def test_what_is_prepared_holds_the_images_bytes_and_the_train_ids(build: Builder, tmp_path: Path) -> None:
    made = build(tmp_path / "source")
    layout, quiet = find_layout(made.layout), Console(quiet=True)
    info, is_new = prepare_dataset(layout, made.request, LocalStore(root=tmp_path / "out"), console=quiet)
    assert is_new
    assert not prepare_dataset(layout, made.request, LocalStore(root=tmp_path / "out"), console=quiet)[1]
    for (split, key), image in made.images.items():
        with tarfile.open(tmp_path / "out" / split / "000000.tar") as shard:
            stored = {name: file.read() for name in shard.getnames() if (file := shard.extractfile(name))}
        (extension,) = {"jpg", "png"} & {name.partition(".")[2] for name in stored if name.startswith(f"{key}.")}
        assert stored[f"{key}.{extension}"] == image.read_bytes()
        np.testing.assert_array_equal(decode_label(stored[f"{key}.seg.png"]), made.labels[split, key])
    assert {(split, found.samples) for split, found in info.splits.items()} == set(
        Counter(split for split, _ in made.images).items()
    )
    if made.layout != "folder":
        assert (info.classes, info.palette) == (layout.classes, layout.palette)


def test_other_contents_have_other_arguments(tmp_path: Path) -> None:
    made = sources.voc2012(tmp_path)
    layout = find_layout("voc2012")
    before = layout.open(made.request).arguments
    assert layout.open(made.request).arguments == before
    lists = tmp_path / "ImageSets/Segmentation"
    write_lines(lists / "train.txt", ["2007_000033", "2007_000039"])  # the files are those of before
    write_lines(lists / "val.txt", ["2007_000032"])
    assert layout.open(made.request).arguments != before


def test_the_same_files_with_other_classes_are_another_data_set(tmp_path: Path) -> None:
    made = sources.own_folder(tmp_path)
    before = find_layout("folder").open(made.request).arguments
    write_lines(tmp_path / "classes.txt", ["sky 70 130 180", "traffic light 250 170 30", "road 128 64 128"])
    assert find_layout("folder").open(made.request).arguments != before


def test_a_data_set_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    one, other = sources.voc2012_sbd(tmp_path / "one"), sources.voc2012_sbd(tmp_path / "other")
    for path in (tmp_path / "one").rglob("*.jpg"):
        (tmp_path / "other" / path.relative_to(tmp_path / "one")).write_bytes(path.read_bytes())
    first, second = (find_layout("voc2012-aug").open(made.request) for made in (one, other))
    assert first.arguments == second.arguments
    for a, b in zip(first.splits["train"].samples, second.splits["train"].samples, strict=True):
        assert (a.key, a.image, a.source) == (b.key, b.image, b.source)


def test_names_are_where_the_published_lists_have_them() -> None:
    assert [len(find_layout(name).classes) for name in ("ade20k", "coco-stuff", "cityscapes", "voc2012")] == [
        150, 171, 19, 21,
    ]  # fmt: skip
    assert [ade20k.CLASSES[position] for position in (0, 12, 44, 89, 149)] == [
        "wall", "person", "chest of drawers", "television receiver", "flag",
    ]  # fmt: skip
    assert [coco_stuff.CLASSES[position] for position in (0, 11, 79, 80, 170)] == [
        "person", "stop sign", "toothbrush", "banner", "wood",
    ]  # fmt: skip
    assert [cityscapes.LAYOUT.classes[position] for position in (0, 10, 18)] == ["road", "sky", "bicycle"]
    assert list(pascal_context.CLASSES_59) == sorted(pascal_context.CLASSES_59)
    assert {name: pascal_context.CLASSES_59.index(name) for name in sources.CONTEXT_POSITIONS} == (
        sources.CONTEXT_POSITIONS
    )
    assert list(pascal_context.CLASSES_60) == ["background", *pascal_context.CLASSES_59]


def test_vocs_colours_are_those_of_its_development_kit() -> None:
    palette = find_layout("voc2012").palette
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert (palette[15], palette[20]) == ((192, 128, 128), (0, 64, 128))  # person, tvmonitor


def test_camvids_32_colours_all_have_a_class() -> None:
    members = [colour for group in camvid.ORIGINAL_COLOURS.values() for colour in group.values()]
    assert len(set(members)) == len(members) == 31  # and Void
    assert tuple(camvid.ORIGINAL_COLOURS) == camvid.CLASSES
    for colour, train_id in sources.CAMVID_COLOURS.items():
        if train_id != 255:
            assert colour in camvid.ORIGINAL_COLOURS[camvid.CLASSES[train_id]].values()


def test_a_few_pixels_of_no_colour_are_void(tmp_path: Path) -> None:
    made = sources.camvid_original(tmp_path)
    path = tmp_path / "LabeledApproved_full/0016E5_07959_L.png"
    pixels = np.full((40, 50, 3), 128, np.uint8)
    pixels[3, 4:6] = (128, 128, 126)  # 2 of 2,000: as blurred as in the release
    sources.Image.fromarray(pixels).save(path)
    label = camvid.read_colours(path)
    assert label[3, 4:6].tolist() == [255, 255]
    assert np.count_nonzero(label) == 2
    pixels[3, 6] = (26, 0, 3)
    sources.Image.fromarray(pixels).save(path)
    with pytest.raises(InputError) as caught:
        read_all(made.request, "camvid-original")
    assert str(caught.value) == (
        f"{path}: holds the colour (128, 128, 126): give the release's PNGs, in the colours of its 32 classes"
    )


def test_fewer_samples_than_were_published_are_told_of(tmp_path: Path) -> None:
    layout = find_layout("ade20k")
    assert missing_samples(layout, layout.open(sources.ade20k(tmp_path).request)) == [
        "train: 1 samples, 20,210 were published: is ade20k there whole?",
        "val: 1 samples, 2,000 were published: is ade20k there whole?",
    ]
    own = find_layout("folder")
    assert missing_samples(own, own.open(sources.own_folder(tmp_path / "own").request)) == []
