"""`encnet data prepare`: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.errors import InputError
from pipeline.shards import read_dataset, read_index
from pipeline.storage import LocalStore
from tests.unit.pipeline import made_up_sources
from workflows.prepare import data

SMALL = ("--train-samples", "6", "--val-samples", "2")


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(data, ["prepare", *arguments], catch_exceptions=False)


def test_a_generated_set_is_written_and_told_of(tmp_path: Path) -> None:
    result = _run("context-scenes", "--dest", str(tmp_path / "x"), *SMALL)
    assert result.exit_code == 0
    info = read_dataset(LocalStore(root=tmp_path / "x"))
    assert {name: split.samples for name, split in info.splits.items()} == {"train": 6, "val": 2}
    assert info.source == {"layout": "context-scenes", "version": "1", "seed": 0, "train": 6, "val": 2}
    assert "context-scenes: written to" in result.stdout
    for split in info.splits.values():
        assert split.digest[:12] in result.stdout
        assert f"{split.bytes:,}" in result.stdout
    assert len(read_index(LocalStore(root=tmp_path / "x"), "val")) == 2


def test_asked_for_again_it_finds_the_work_done(tmp_path: Path) -> None:
    arguments = ("context-scenes", "--dest", str(tmp_path), *SMALL)
    first = json.loads(_run(*arguments, "--json").stdout.splitlines()[-1])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = json.loads(_run(*arguments, "--json").stdout.splitlines()[-1])
    assert first["prepared"]
    assert not again["prepared"]
    assert {**first, "prepared": False} == again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    assert "already prepared at" in _run(*arguments).stdout


def test_another_data_set_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    _run("context-scenes", "--dest", str(tmp_path), *SMALL)
    with pytest.raises(InputError) as caught:
        _run("context-scenes", "--dest", str(tmp_path), *SMALL, "--seed", "1")
    assert str(caught.value) == (
        f"{tmp_path}: holds another data set, 'context-scenes' prepared with "
        "{'layout': 'context-scenes', 'seed': 0, 'train': 6, 'val': 2, 'version': '1'}: "
        "give another --dest, or --force to replace it"
    )
    assert read_dataset(LocalStore(root=tmp_path)).source["seed"] == 0
    assert _run("context-scenes", "--dest", str(tmp_path), *SMALL, "--seed", "1", "--force").exit_code == 0
    assert read_dataset(LocalStore(root=tmp_path)).source["seed"] == 1


def test_a_broken_data_set_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"is no dataset\.json"):
        _run("context-scenes", "--dest", str(tmp_path), *SMALL)
    assert _run("context-scenes", "--dest", str(tmp_path), *SMALL, "--force").exit_code == 0


def test_an_unknown_layout_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layout: 'camvit' is not known: did you mean 'camvid'\?"):
        _run("camvit", "--dest", str(tmp_path / "x"))
    with pytest.raises(InputError, match="source: is missing"):
        _run("camvid", "--dest", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_folder_is_read_with_the_options_of_its_layout(tmp_path: Path) -> None:
    made_up_sources.voc2012_sbd(tmp_path)
    result = _run(
        "voc2012-aug", "--source", str(tmp_path / "VOC2012"), "--sbd", str(tmp_path / "benchmark_RELEASE"),
        "--splits", "train", "--dest", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    told = json.loads(result.stdout)
    assert (told["classes"], {name: split["samples"] for name, split in told["splits"].items()}) == (21, {"train": 4})
    assert " ".join(result.stderr.split()) == "train: 4 samples, 10,582 were published: is voc2012-aug there whole?"


def test_a_folder_brings_its_own_classes(tmp_path: Path) -> None:
    made_up_sources.own_folder(tmp_path / "in")
    assert _run("folder", "--source", str(tmp_path / "in"), "--dest", str(tmp_path / "out")).exit_code == 0
    info = read_dataset(LocalStore(root=tmp_path / "out"))
    assert info.classes == ("road", "traffic light", "sky")
    assert info.palette == ((128, 64, 128), (250, 170, 30), (70, 130, 180))
