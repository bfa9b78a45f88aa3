"""`encnet predict`: what it says, writes and refuses, from folder to folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.errors import InputError
from pipeline.registry import ResolvedModel
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, colours, patches, png, write_made_up
from tests.unit.pipeline.small_model import store_model
from workflows import cli, predict


@pytest.fixture(autouse=True)
def photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model in the folder street-model, its data set in street, images in photos; nobody's stack."""
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    store_model(Path("street-model"), monkeypatch)
    write_made_up(Path("street"))
    for seed, key in enumerate(("a.png", "b.png", "day/c.png")):
        Path("photos/day").mkdir(parents=True, exist_ok=True)
        (Path("photos") / key).write_bytes(png(colours(patches((40, 48 + seed), np.random.default_rng(seed)))))
    Path("photos/notes.txt").write_text("no image")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["encnet", "predict", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return told


def test_a_folder_is_predicted_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("street-model", "photos", "out", "--data", "street")
    assert _run(monkeypatch, *command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path}/out: 3 images predicted, 0 were finished before\n"
    assert shown.err.splitlines()[-1] == "passed over, by their extensions: 1 of .txt"
    record = json.loads(Path("out/day/c.json").read_text())
    assert set(record["shares"]) <= set(CLASSES)
    with Pillow.open("out/day/c.png") as image:
        assert image.size == (50, 40)
        palette = image.getpalette() or []
    assert tuple(palette[: 3 * len(PALETTE)]) == tuple(value for colour in PALETTE for value in colour)
    assert _run(monkeypatch, *command) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: 0 images predicted, 3 were finished before\n"
    assert _run(monkeypatch, *command, "--force", "--json") == 0
    assert _json(capsys) == {
        "model_uri": "street-model",
        "output": f"{tmp_path}/out",
        "images": 3,
        "predicted": 3,
        "skipped": 0,
        "bad": [],
        "passed_over": 1,
    }


def test_images_and_patterns_stand_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "street-model", "photos/day/c.png", "photos/[ab].png", "out", "--no-overlay") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"{name}.{extension}" for name in "abc" for extension in ("json", "png")
    ]
    record = json.loads(Path("out/c.json").read_text())
    assert record["overlay"] is None
    assert set(record["shares"]) <= {"0", "1", "2", "3"}, "without a data set classes are numbers"


def test_bad_images_are_named_and_only_all_bad_ones_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("photos/b.png").write_bytes(b"no image")
    assert _run(monkeypatch, "street-model", "photos", "out", "--json") == 0
    shown = capsys.readouterr()
    fault = "is neither JPEG nor PNG (it begins with b'no image')"
    assert json.loads(shown.out)["bad"] == [{"input": f"{tmp_path}/photos/b.png", "error": fault}]
    lines = shown.err.splitlines()
    assert f"bad image  {tmp_path}/photos/b.png: {fault}" in lines
    assert lines[-1] == "warning: 1 of 3 images are bad: they have no results"
    assert _run(monkeypatch, "street-model", "photos", "out") == 0, "the others are there"
    assert "0 images predicted, 2 were finished before" in capsys.readouterr().out
    assert _run(monkeypatch, "street-model", "photos/b.png", "other", "--json") == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["predicted"] == 0
    assert shown.err.splitlines()[-1].startswith(f"encnet: {tmp_path}/other: none of 1 images can be predicted: ")


def test_no_more_bad_images_are_named_than_fit_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        Path(f"photos/broken{number}.jpg").touch()
    assert _run(monkeypatch, "street-model", "photos", "out", "--json") == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["bad"]) == 25
    assert shown.err.count("bad image  ") == 20
    assert shown.err.splitlines()[-1] == (
        "warning: 25 of 28 images are bad, of which 20 are named: they have no results"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["street-model", "photos"], "encnet predict: Missing argument 'INPUT...'."),
        (["nowhere", "photos", "out"], "MODEL: 'nowhere': holds no weights.safetensors: name a registered model or a"),
        (["models:/street@champion", "photos", "out"], "stack is not up: MLFLOW_TRACKING_URI is not set: run `encnet"),
        (["street-model", "photos", "out", "--ray"], "stack is not up: RAY_ADDRESS is not set: run `encnet stack up`"),
        (["street-model", "none", "out"], "INPUT: 'none': there is no such file or folder: check the path"),
        (["street-model", "photos", "photos"], "INPUT: 'photos': lies in OUTPUT, "),
        (
            ["street-model", "photos", "out", "--scales", "1;2"],
            "scales: '1;2': write numbers with commas between, e.g.",
        ),
        (["street-model", "photos", "out", "--scales", "0"], "scales: (0.0,): must be numbers greater than 0"),
        (["street-model", "photos", "out", "--crop-size", "8"], "crop_size: 8 is too small: give at least 32, or 0"),
        (["street-model", "photos", "out", "--batch-size", "0"], "encnet predict: Invalid value for '--batch-size'"),
        (["street-model", "photos", "out", "--data", "photos"], "{}/photos: no dataset.json there: write the data set"),
        (["broken.safetensors", "photos", "out"], "MODEL: broken.safetensors: not a whole safetensors file"),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    line: str,
) -> None:
    Path("broken.safetensors").write_text("not a header")
    assert _run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"encnet: {line.format(tmp_path)}")
    assert shown.err.count("\n") == 1
    assert not Path("out").exists()


def test_classes_are_those_of_the_data_set_that_the_model_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResolvedModel(uri="models:/street/1", weights=Path(), name="street", version="1")
    monkeypatch.setattr("pipeline.registry.training_data", lambda _: "street")
    assert predict.name_classes(model, None, 4) == (CLASSES, PALETTE)
    assert predict.name_classes(model, "none", 4).names == ("0", "1", "2", "3")
    with pytest.raises(InputError, match=r"^data: 'made-up' has 4 classes, but models:/street/1 has 3: name the data"):
        predict.name_classes(model, "street", 3)
    monkeypatch.setattr("pipeline.registry.training_data", lambda _: "s3-is-gone")
    with pytest.raises(InputError) as caught:
        predict.name_classes(model, None, 4)
    assert str(caught.value).startswith("MODEL: models:/street/1 was trained on s3-is-gone, which can't be read (")
    assert str(caught.value).endswith("or give --data none to do without names and colours")
    monkeypatch.setattr("pipeline.registry.training_data", lambda _: "")
    made_up = predict.name_classes(model, None, 4)
    assert len(set(made_up.palette)) == 4


def test_help_says_what_becomes_of_orientation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--help") == 0
    assert "an EXIF orientation is left alone" in " ".join(capsys.readouterr().out.split())
