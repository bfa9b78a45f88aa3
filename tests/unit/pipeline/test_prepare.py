"""`encnet data prepare`: what it writes, says and refuses."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.datasets import Request, find_layout
from pipeline.errors import InputError
from pipeline.shards import read_dataset, read_index
from pipeline.storage import LocalStore
from tests.unit.pipeline import made_up_sources
from workflows import split_progress
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


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_bad_source_does_not_cost_the_data_set_that_is_there(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    _run("context-scenes", "--dest", out, *SMALL)
    before = _files(tmp_path / "out")
    made_up_sources.own_folder(tmp_path / "in")
    bad = sorted((tmp_path / "in/images/train").iterdir())[-1]
    image = bad.read_bytes()
    bad.write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"images/train/{bad.name}: the image can't be read"):
        _run("folder", "--source", str(tmp_path / "in"), "--dest", out, "--force")
    assert _files(tmp_path / "out") == before
    bad.write_bytes(image)
    assert _run("folder", "--source", str(tmp_path / "in"), "--dest", out, "--force").exit_code == 0
    assert read_dataset(LocalStore(root=tmp_path / "out")).name == "folder"


def test_what_was_interrupted_is_gone_on_with_and_told_of(tmp_path: Path) -> None:
    made_up_sources.own_folder(tmp_path / "in")
    arguments = ("folder", "--source", str(tmp_path / "in"), "--dest", str(tmp_path / "out"))
    bad = sorted((tmp_path / "in/annotations/train").iterdir())[-1]
    label = bad.read_bytes()
    bad.write_bytes(bytes(len(label)))
    with pytest.raises(InputError, match=rf"{bad.name}: the annotation can't be used"):
        _run(*arguments)
    bad.write_bytes(label)
    assert "1 of 2 shards were there already" in _run(*arguments).stderr
    _run("folder", "--source", str(tmp_path / "in"), "--dest", str(tmp_path / "whole"))
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_a_data_set_has_the_name_that_it_is_given(tmp_path: Path) -> None:
    made_up_sources.own_folder(tmp_path / "in")
    arguments = ("folder", "--source", str(tmp_path / "in"), "--dest", str(tmp_path / "out"))
    assert json.loads(_run(*arguments, "--name", "streets", "--json").stdout)["name"] == "streets"
    assert json.loads(_run(*arguments, "--json").stdout)["prepared"] is False
    with pytest.raises(InputError, match="holds another data set, 'streets' prepared with"):
        _run(*arguments, "--name", "roads")
    with pytest.raises(InputError) as caught:
        _run(*arguments, "--name", "a/b", "--force")
    assert str(caught.value) == ("name: 'a/b' is no name of a data set: use letters, digits, '-', '_' and '.'")


def test_progress_is_told_by_the_shard_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_progress, "LINE_EVERY_S", 0)
    told = _run("context-scenes", "--dest", str(tmp_path), *SMALL).stderr
    assert sorted(told.splitlines()) == ["train: 6 of 6 samples written", "val: 2 of 2 samples written"]
    told = _run("context-scenes", "--dest", str(tmp_path), *SMALL, "--force").stderr
    assert sorted(told.splitlines())[::2] == ["train: 6 of 6 samples checked", "val: 2 of 2 samples checked"]


def test_a_machine_that_does_not_see_the_source_is_named(tmp_path: Path) -> None:
    made_up_sources.own_folder(tmp_path / "in")
    samples = find_layout("folder").open(Request(source=tmp_path / "in")).splits["train"].samples
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        samples[0]
    assert str(caught.value) == (
        f"{tmp_path}/in: is not there on {platform.node()}: all nodes of a cluster must see the source"
    )


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
