"""Shards of others -> index: any order of members, the right pairs, and hostile samples named."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from pipeline import shard_index
from pipeline.dataset_index import find_shards, member_names, write_index
from pipeline.errors import DataError, InputError, StorageError
from pipeline.eval_loader import EvalLoader
from pipeline.image_header import read_header
from pipeline.loader import TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.sample_reader import decode_ids, decode_pair, split_members
from pipeline.shards import DatasetInfo, MemberNames, Sample, read_dataset, read_index
from pipeline.storage import LocalStore
from pipeline.transforms import TransformConfig, decode_image
from pipeline.world import World
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, make_samples, png, write_made_up
from tests.unit.pipeline.test_tar_members import FORMATS, HOSTILE, make_tar, mutated

Files = list[tuple[str, bytes]]
NUMBERS = ("offset", "length", "width", "height")


def files_of(samples: Sequence[Sample], label: str = "seg.png") -> Files:
    """The members that the samples are stored as, side by side."""
    pairs = [((f"{one.key}.png", one.image), (f"{one.key}.{label}", png(one.label))) for one in samples]
    return [file for pair in pairs for file in pair]


def store_shards(root: Path, **shards: bytes) -> LocalStore:
    for name, data in shards.items():
        (root / "train").mkdir(parents=True, exist_ok=True)
        (root / f"train/{name}.tar").write_bytes(data)
    return LocalStore(root=root)


def index_all(store: LocalStore, members: MemberNames | None = None, ignore_index: int = 255) -> DatasetInfo:
    shards = find_shards(store.list(), {}, store.uri())
    info, _ = write_index(
        store,
        shards,
        name="x",
        classes=CLASSES,
        palette=PALETTE,
        members=members or MemberNames(),
        ignore_index=ignore_index,
    )
    return info


def check_pairs(store: LocalStore, samples: Sequence[Sample]) -> None:
    """Both loaders give every sample, with its own label."""
    index = read_index(store, "train")
    assert sorted(index.keys) == sorted(one.key for one in samples)
    expected = {one.key: one for one in samples}
    for batch in EvalLoader(store, index, world=World()):
        one = expected[index.keys[int(batch.sample_ids[0])]]
        assert np.array_equal(batch.images[0].numpy(), decode_image(one.image, one.extension))
        assert np.array_equal(batch.labels[0].numpy(), one.label)
    order = Order(plan_blocks(index.shard, index.offset, index.length, 4000), seed=0, batch_size=1, window=4)
    transform = TransformConfig(crop_size=(32, 32), scale_min=1, scale_max=1, flip=False)
    with TrainLoader(store, index, order, world=World(), transform=transform, seed=0) as loader:
        for train_batch in islice(loader, len(samples)):
            colours = np.array(PALETTE, np.uint8)[train_batch.labels[0].numpy()]
            assert np.array_equal(train_batch.images[0].numpy(), colours)


def test_the_index_of_our_own_shards_is_the_one_they_were_written_with(tmp_path: Path) -> None:
    written = write_made_up(tmp_path)
    indexes = [(tmp_path / split / "index.parquet").read_bytes() for split in written.splits]
    again = index_all(LocalStore(root=tmp_path))
    assert again.splits == written.splits
    assert [(tmp_path / split / "index.parquet").read_bytes() for split in written.splits] == indexes


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 20))
def test_members_may_stand_in_any_order(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    samples = list(make_samples(5))
    files = [
        *files_of(samples),
        ("s0001.json", b"{}"),
        ("notes.txt", b"no sample"),
        ("README", b""),
        ("s0003.txt", b""),
    ]
    random.Random(seed).shuffle(files)
    store = store_shards(tmp_path_factory.mktemp("shards"), a=make_tar(files))
    info = index_all(store)
    labels = np.concatenate([one.label.ravel() for one in samples])
    assert info.splits["train"].class_pixels == tuple(np.bincount(labels, minlength=len(CLASSES)))
    index = read_index(store, "train")
    assert (np.diff(index.offset) > 0).all()
    assert (np.diff(index.offset + index.length) >= 0).all()
    check_pairs(store, samples)


def test_folders_with_dots_and_long_names_and_capitals(tmp_path: Path) -> None:
    first, second, third = make_samples(3)
    files = [
        ("./a.v1/" + "x" * 150 + ".PNG", first.image),
        ("./a.v1/" + "x" * 150 + ".Seg.Png", png(first.label)),
        ("b.v2/c.png", second.image),
        ("b.v2/c.seg.png", png(second.label)),
        ("b.v3/c.png", third.image),
        ("b.v3/c.seg.png", png(third.label)),
    ]
    store = store_shards(tmp_path, a=make_tar(files))
    index_all(store)
    assert list(read_index(store, "train").keys) == ["a.v1/" + "x" * 150, "b.v2/c", "b.v3/c"]
    labels = [batch.labels[0].numpy() for batch in EvalLoader(store, read_index(store, "train"), world=World())]
    assert all(np.array_equal(label, one.label) for label, one in zip(labels, (first, second, third), strict=True))


def test_images_are_what_they_are_and_not_what_they_are_called(tmp_path: Path) -> None:
    first, second = make_samples(2)
    jpeg = simplejpeg.encode_jpeg(decode_image(second.image, "png"), 98, "RGB", "444")
    files = [("a.jpg", first.image), ("a.seg.png", png(first.label)), ("b.png", jpeg), ("b.seg.png", png(second.label))]
    store = store_shards(tmp_path, a=make_tar(files))
    index_all(store)
    one, two = (batch.images[0].numpy() for batch in EvalLoader(store, read_index(store, "train"), world=World()))
    assert np.array_equal(one, decode_image(first.image, "png"))
    assert np.array_equal(two, decode_image(jpeg, "jpg"))


def test_other_extensions_and_another_ignore_index_are_kept_in_dataset_json(tmp_path: Path) -> None:
    samples = list(make_samples(3))
    files = []
    for one in samples:
        label = one.label.copy()
        label[:4] = 9
        image = simplejpeg.encode_jpeg(decode_image(one.image, "png"), 98, "RGB", "444")
        files += [(f"{one.key}.JPG", image), (f"{one.key}.depth.png", b"?"), (f"{one.key}.png", png(label))]
    store = store_shards(tmp_path, a=make_tar(files))
    members = member_names(None, ["png"])
    assert members == MemberNames(image=("jpg", "jpeg"), label=("png",))
    info = index_all(store, members, ignore_index=9)
    assert read_dataset(store) == info
    for batch, one in zip(EvalLoader(store, read_index(store, "train"), world=World()), samples, strict=True):
        expected = one.label.copy()
        expected[:4] = 255
        assert np.array_equal(batch.labels[0].numpy(), expected)


def test_labels_with_a_palette_are_read_as_ids(tmp_path: Path) -> None:
    samples = list(make_samples(4))
    files = files_of(samples)
    for place, one in enumerate(samples):
        picture = Pillow.fromarray(one.label)
        picture.putpalette([value for colour in PALETTE for value in colour])
        file = BytesIO()
        picture.save(file, "PNG", bits=(2, 4, 8, 8)[place])
        files[2 * place + 1] = (files[2 * place + 1][0], file.getvalue())
    store = store_shards(tmp_path, a=make_tar(files))
    index_all(store)
    check_pairs(store, samples)


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_of_few_bits_are_exact(bits: int, mode: str) -> None:
    """As another encoder packs them; rows end within a byte."""
    ids = (np.arange(7 * 13) % (1 << bits)).astype(np.uint8).reshape(7, 13)
    picture = Pillow.fromarray(ids)
    if mode == "P":
        picture.putpalette([value * 7 % 200 for value in range(3 << bits)])
    file = BytesIO()
    picture.save(file, "PNG", bits=bits)
    header = read_header(file.getvalue())
    assert (header.bit_depth, header.colour_type) == (bits, 3 if mode == "P" else 0)
    assert np.array_equal(decode_ids(file.getvalue()), ids)


def _bomb(width: int, height: int, colour_type: int = 2, depth: int = 8) -> bytes:
    """A PNG of a few hundred bytes that claims to be as large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(bytes(200_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GOOD, BAD = make_samples(2)
IMAGE, LABEL = BAD.image, png(BAD.label)
NO_IDS = "not a png of class ids: write each pixel's id, as grey or with a palette, with at most 8 bits"
SAMPLES: dict[str, tuple[Files, str]] = {
    "no label": ([("s1.png", IMAGE)], "sample 's1' has no seg.png, only png: add it, or remove the sample's members"),
    "no image": (
        [("s1.seg.png", LABEL), ("s1.txt", b"")],
        "sample 's1' has no jpg or jpeg or png, only seg.png, txt: add it, or remove the sample's members",
    ),
    "empty image": (
        [("s1.png", b""), ("s1.seg.png", LABEL)], "sample 's1': png: is empty (0 bytes): replace or remove it"
    ),
    "empty label": (
        [("s1.png", IMAGE), ("s1.seg.png", b"")], "sample 's1': seg.png: is empty (0 bytes): replace or remove it"
    ),
    "twice": (
        [("s1.png", IMAGE), ("s1.seg.png", LABEL), ("x.txt", b""), ("s1.png", IMAGE), ("s1.seg.png", LABEL)],
        "sample 's1' has two members 'png': a key must be there once, rename one",
    ),
    "bomb": (
        [("s1.png", _bomb(50_000, 50_000)), ("s1.seg.png", LABEL)],
        "sample 's1': png: claims 50000x50000 pixels: 1 to 134,217,728 are taken",
    ),
    "bomb of a label": (
        [("s1.png", IMAGE), ("s1.seg.png", _bomb(50_000, 50_000, 0))],
        "sample 's1': seg.png: claims 50000x50000 pixels: 1 to 134,217,728 are taken",
    ),
    "no pixels": (
        [("s1.png", _bomb(0, 5)), ("s1.seg.png", LABEL)],
        "sample 's1': png: claims 0x5 pixels: 1 to 134,217,728 are taken",
    ),
    "sizes": (
        [("s1.png", IMAGE), ("s1.seg.png", png(np.zeros((9, 7), np.uint8)))],
        "sample 's1': the image is 56x40, its label 7x9",
    ),
    "id": (
        [("s1.png", IMAGE), ("s1.seg.png", png(np.full((40, 56), 4, np.uint8)))],
        "sample 's1': the label holds the id 4: classes are 0 to 3, and 255 is ignored",
    ),
    "colours": (
        [("s1.png", IMAGE), ("s1.seg.png", IMAGE)],
        "sample 's1': seg.png: is a png of RGB with 8 bits, " + NO_IDS,
    ),
    "many bits": (
        [("s1.png", IMAGE), ("s1.seg.png", _bomb(56, 40, 0, 16))],
        "sample 's1': seg.png: is a png of grey with 16 bits, " + NO_IDS,
    ),
    "damaged label": (
        [("s1.png", IMAGE), ("s1.seg.png", LABEL[:40])], "sample 's1': can't be decoded as an image (40 bytes)"
    ),
    "text": (
        [("s1.png", b"<html>"), ("s1.seg.png", LABEL)],
        "sample 's1': png: is neither JPEG nor PNG (it begins with b'<html>')",
    ),
    "label is a JPEG": (
        [("s1.png", IMAGE), ("s1.seg.png", simplejpeg.encode_jpeg(BAD.label[..., None], 90, "GRAY", "Gray"))],
        "sample 's1': seg.png: is a jpg of grey with 8 bits, " + NO_IDS,
    ),
    "name that leads out": (
        [("../s1.png", IMAGE), ("../s1.seg.png", LABEL)],
        "member '../s1.png' leads out of the archive: rewrite the shard with relative names",
    ),
    "absolute name": (
        [("/s1.png", IMAGE), ("/s1.seg.png", LABEL)],
        "member '/s1.png' leads out of the archive: rewrite the shard with relative names",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "message"), SAMPLES.values(), ids=SAMPLES)
def test_hostile_samples_are_named(tmp_path: Path, files: Files, message: str) -> None:
    store = store_shards(tmp_path, a=make_tar(files_of([GOOD])), b=make_tar(files))
    with pytest.raises(DataError) as caught:
        index_all(store)
    assert str(caught.value) == f"{tmp_path}/train/b.tar: {message}"
    assert not (tmp_path / "dataset.json").exists()
    assert not (tmp_path / "train/index.parquet").exists()


@pytest.mark.parametrize("data", [data for data, _ in HOSTILE.values()], ids=HOSTILE)
def test_hostile_archives_are_named(tmp_path: Path, data: bytes) -> None:
    store = store_shards(tmp_path, a=make_tar(files_of([GOOD])), b=data)
    with pytest.raises(DataError, match=rf"^{tmp_path}/train/b\.tar: "):
        index_all(store)


@settings(max_examples=50, deadline=None)
@given(mutated([make_tar(files_of([GOOD, BAD]), kind) for kind in FORMATS.values()]))
def test_any_bytes_give_an_index_that_can_be_read_or_an_error_of_one_kind(data: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    try:
        found = shard_index.index_shard(read, len(data), MemberNames(), len(CLASSES))
    except ValueError:
        return
    assert len(set(found.keys)) == len(found.keys)
    for place, key in enumerate(found.keys):
        offset, length, width, height = (int(found.columns[name][place]) for name in NUMBERS)
        run = read(offset, length)
        assert len(run) == length
        with suppress(ValueError):  # a damaged image, which an index does not decode
            image, label = decode_pair(split_members(run, key), MemberNames())
            assert image.shape[:2] == label.shape == (height, width)


def test_one_key_in_two_shards_is_named(tmp_path: Path) -> None:
    shard = make_tar(files_of([GOOD]))
    with pytest.raises(DataError) as caught:
        index_all(store_shards(tmp_path, a=shard, b=shard))
    assert str(caught.value) == (
        f"{tmp_path}/train/b.tar: sample 's0000' is in {tmp_path}/train/a.tar too: a key must be there once in a split"
    )


def test_members_too_far_apart_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_index, "MAX_RUN_BYTES", 100_000)
    image, label = files_of([GOOD])
    store = store_shards(tmp_path, a=make_tar([image, ("filler.bin", bytes(100_000)), label]))
    with pytest.raises(DataError) as caught:
        index_all(store)
    assert str(caught.value).startswith(f"{tmp_path}/train/a.tar: sample 's0000' can only be read with 102,")
    assert str(caught.value).endswith(
        "more than 100,000: it is too large, or members of samples are too far apart: write the shard again, each "
        "sample's side by side"
    )


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_shards(tmp_path, a=make_tar(files_of([GOOD])))
    full = Path("/dev/full").open("w+b", 0)  # noqa: SIM115 (the indexer closes it)
    monkeypatch.setattr(shard_index.tempfile, "TemporaryFile", lambda prefix: full)
    with pytest.raises(StorageError) as caught:
        index_all(store)
    assert str(caught.value).startswith(f"{tmp_path}/train/a.tar: its 10,240 bytes can't be kept in ")
    assert str(caught.value).endswith("(No space left on device): set TMPDIR to a folder with more room")


def test_a_shard_without_samples_is_passed_over(tmp_path: Path) -> None:
    store = store_shards(tmp_path, a=make_tar([]), b=make_tar(files_of([GOOD])), c=make_tar([("x.txt", b"")]))
    assert index_all(store).splits["train"].shards == 1
    assert read_index(store, "train").shard_names == ("b.tar",)
    with pytest.raises(
        InputError, match=r"its 1 shards hold no member \.jpg or jpeg or png or seg\.png: give --image-ext"
    ):
        index_all(store_shards(tmp_path / "none", a=make_tar([("x.txt", b"")])))


def test_an_ignore_index_that_is_a_class_is_refused(tmp_path: Path) -> None:
    store = store_shards(tmp_path, a=make_tar(files_of([GOOD])))
    with pytest.raises(
        InputError, match=r"^ignore-index: 3 is out of range: give 4 to 255, since ids 0 to 3 are the 4"
    ):
        index_all(store, ignore_index=3)


KEYS = ["train-0.tar", "train-1.tar", "val-0.tar", "sub/val-1.tar", "notes.txt"]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"t": "train-*.tar", "v": "*val-?.tar"}, {"t": KEYS[:2], "v": ["sub/val-1.tar", "val-0.tar"]}),
        ({"t": "train-", "v": "sub/"}, {"t": KEYS[:2], "v": ["sub/val-1.tar"]}),
        ({}, {"sub": ["sub/val-1.tar"]}),
    ],
)
def test_shards_are_found_by_pattern_prefix_or_folder(splits: dict[str, str], expected: dict[str, list[str]]) -> None:
    assert find_shards(KEYS, splits, "s3://b") == expected


@pytest.mark.parametrize(
    ("keys", "splits", "message"),
    [
        (KEYS, {"t": "tran-*"}, r"split: t=tran-\*: no \.tar below s3://b matches it \(such as sub/val-1\.tar\)"),
        (KEYS, {"t": "train", "u": "train-1"}, r"split: train-1\.tar is in 't' and in 'u': narrow the patterns"),
        (KEYS, {"../t": "train"}, r"split: '\.\./t' is no name of a split: use letters, digits"),
        (KEYS[:2], {}, r"s3://b: holds no folder with \.tar files: give --split NAME=PATTERN"),
    ],
)
def test_wrong_patterns_are_named(keys: list[str], splits: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_shards(keys, splits, "s3://b")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (["jpg", "png"], ["png"], r"^label-ext: 'png' is an image's in --image-ext too: leave it out of one$"),
        ([""], ["png"], r"^image-ext: '': give extensions, such as jpg,png$"),
        (None, [], r"^label-ext: '': give extensions, such as jpg,png$"),
    ],
)
def test_extensions_that_name_nothing_or_two_things_are_refused(
    image: list[str] | None, label: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        member_names(image, label)
