"""`encnet data index`, `verify` and `inspect`: what they write, say and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.errors import DataError, InputError
from pipeline.shards import IGNORE_INDEX, read_dataset
from pipeline.storage import LocalStore
from pipeline.transforms import decode_image
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, make_samples, write_made_up
from tests.unit.pipeline.test_shard_index import files_of
from tests.unit.pipeline.test_tar_members import make_tar
from workflows.prepare import data


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(data, [str(argument) for argument in arguments], catch_exceptions=False)


def _json(result: Result) -> dict[str, object]:
    assert result.exit_code == 0
    described: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return described


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    lines = [f"{name} {' '.join(map(str, colour))}" for name, colour in zip(CLASSES, PALETTE, strict=True)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards in one folder, as others write them."""
    root = tmp_path / "shards"
    root.mkdir()
    samples = list(make_samples(9))
    for name, part in (("train-0", samples[:3]), ("train-1", samples[3:6]), ("val-0", samples[6:])):
        (root / f"{name}.tar").write_bytes(make_tar([*files_of(part), ("notes.txt", b"")]))
    return root


SPLITS = ("--split", "train=train-*.tar", "--split", "val=val-")


def test_shards_of_others_are_indexed_verified_and_inspected(shards: Path, classes: Path, tmp_path: Path) -> None:
    result = _run("index", shards, "--classes", classes, *SPLITS)
    assert result.exit_code == 0
    info = read_dataset(LocalStore(root=shards))
    assert (info.name, info.classes, info.palette, info.ignore_index) == ("shards", CLASSES, PALETTE, IGNORE_INDEX)
    assert {name: (split.samples, split.shards) for name, split in info.splits.items()} == {
        "train": (6, 2),
        "val": (3, 1),
    }
    assert info.source == {"indexed": {"train": "train-*.tar", "val": "val-"}}
    for split in info.splits.values():
        assert split.digest[:12] in result.stdout
    assert _json(_run("verify", shards, "--json"))["splits"] == {
        name: {"samples": split.samples, "bytes": split.bytes, "faults": []} for name, split in info.splits.items()
    }
    assert "verify" not in _run("verify", shards, "--split", "val").stdout
    picture = tmp_path / "picture.png"
    described = _json(_run("inspect", shards, "--output", picture, "--samples", "2", "--split", "val", "--json"))
    assert described["picture"] == str(picture)
    assert decode_image(picture.read_bytes(), "png").shape[0] > 240
    assert described["splits"]["val"]["class_pixels"] == dict(  # type: ignore[index]
        zip(CLASSES, info.splits["val"].class_pixels, strict=True)
    )


def test_an_index_that_is_there_is_replaced_only_when_told_to(shards: Path, classes: Path) -> None:
    first = _json(_run("index", shards, "--classes", classes, *SPLITS, "--json"))
    assert first["splits"]["train"]["skipped"] == 2  # type: ignore[index]
    stamps = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    with pytest.raises(InputError) as caught:
        _run("index", shards, "--classes", classes, *SPLITS)
    assert str(caught.value) == f"{shards}/dataset.json: is there already: give --force to replace it and the indexes"
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == stamps
    assert _json(_run("index", shards, "--classes", classes, *SPLITS, "--force", "--json")) == first


def test_a_fault_leaves_the_index_that_was_there(shards: Path, classes: Path) -> None:
    _run("index", shards, "--classes", classes, *SPLITS)
    before = (shards / "dataset.json").read_bytes()
    (shards / "val-0.tar").write_bytes(b"no tar" * 100)
    with pytest.raises(DataError, match=r"val-0\.tar: has no tar header at byte 0"):
        _run("index", shards, "--classes", classes, *SPLITS, "--force")
    assert (shards / "dataset.json").read_bytes() == before


def test_members_apart_are_told_of(shards: Path, classes: Path) -> None:
    files = files_of(list(make_samples(9)))
    (shards / "train-0.tar").write_bytes(make_tar(files[::2] + files[1::2]))
    result = _run("index", shards, "--classes", classes, "--split", "train=train-0")
    assert "train: members of samples stand apart, so that up to" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "train"), r"^split: 'train': write NAME=PATTERN, such as train=train-\*\.tar$"),
        (("--split", "a=b", "--split", "a=c"), r"^split: 'a' is there twice: give each split once$"),
        (
            ("--split", "a=b"),
            r"^split: a=b: no \.tar below .* matches it \(such as train-0\.tar\): correct the pattern$",
        ),
        (("--label-ext", "png,"), r"^label-ext: 'png,': give extensions, such as jpg,png$"),
        (("--split", "a=val-", "--ignore-index", "256"), r"^ignore-index: 256 is out of range: give 4 to 255"),
        (("--split", "a=val-", "--label-ext", "mask.png"), r"'s0006' has no mask\.png, only png, seg\.png: add it"),
    ],
)
def test_wrong_options_are_named(shards: Path, classes: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises((InputError, DataError), match=message):
        _run("index", shards, "--classes", classes, *arguments)
    assert not (shards / "dataset.json").exists()


def test_faults_are_counted_and_the_first_named(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_train=30, num_val=1)
    for name in ("000000", "000001", "000002"):
        (tmp_path / f"train/{name}.tar").write_bytes(bytes(10240))
    runner = CliRunner()
    result = runner.invoke(data, ["verify", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == (
        f"{tmp_path}: 30 faults, of which 20 are named: restore the shards, or write or index them again"
    )
    lines = result.stderr.splitlines()
    assert len(lines) == 20
    assert lines[0].startswith(f"{tmp_path}/train/000000.tar: sample 's0000': ")
    result = runner.invoke(data, ["verify", str(tmp_path), "--json"])
    assert len(json.loads(result.stdout.splitlines()[-1])["splits"]["train"]["faults"]) == 30


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    write_made_up(tmp_path)
    with pytest.raises(InputError, match=r"^split: 'vall' is not in .*: did you mean 'val'\?$"):
        _run("verify", tmp_path, "--split", "vall")
    with pytest.raises(InputError, match=r"no split 'vall': did you mean 'val'\?$"):
        _run("inspect", tmp_path, "--split", "vall")


def test_inspect_shows_counts_shares_and_the_same_samples_for_the_same_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write_made_up(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    shown = _run("inspect", tmp_path / "set").stdout
    share = 100 * info.splits["train"].class_pixels[1] / sum(info.splits["train"].class_pixels)
    assert f"{share:.2f}" in shown
    assert "40–64" in shown
    assert "made-up-train.png: 12 samples of 'train' with their labels" in shown
    first = np.fromfile("made-up-train.png", np.uint8)
    _run("inspect", tmp_path / "set", "--output", "again.png")
    assert np.array_equal(np.fromfile("again.png", np.uint8), first)
    _run("inspect", tmp_path / "set", "--seed", "1", "--output", "again.png")
    assert not np.array_equal(np.fromfile("again.png", np.uint8), first)
    with pytest.raises(InputError, match=r"^output: none/x\.png: can't be written \(No such file or directory\)"):
        _run("inspect", tmp_path / "set", "--output", "none/x.png")


def test_names_from_storage_neither_mark_up_the_tables_nor_lead_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_made_up(tmp_path / "set")
    info = replace(read_dataset(LocalStore(root=tmp_path / "set")), name="../[/]x")
    info = replace(info, classes=(info.classes[0], "[/] red [bold]", *info.classes[2:]))
    (tmp_path / "set/dataset.json").write_bytes(info.to_json())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "[/] red [bold]" in _run("inspect", tmp_path / "set").stdout
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["..----x-train.png"]
    assert "[/]x at" in _run("verify", tmp_path / "set").stdout
