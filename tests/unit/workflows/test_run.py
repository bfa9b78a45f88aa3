"""`encnet run` before it meets a server: its options, what it refuses, and what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from infra.local import settings
from pipeline.chain import Outcome
from pipeline.chain_plan import Decision
from pipeline.config import field_help
from pipeline.datasets import LAYOUTS as KNOWN_LAYOUTS
from pipeline.datasets import Request, find_layout
from pipeline.errors import InputError, PipelineError
from pipeline.gates import GatesConfig
from pipeline.shards import DatasetInfo
from pipeline.storage import open_store
from workflows import cli, run
from workflows.gate_options import read_gates
from workflows.prepare import prepare_dataset
from workflows.recipes import RECIPES
from workflows.train import recipe_config


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of anybody's stack."""
    for name in {name for group in settings.GROUPS for name in (*group.own, *group.extra)}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path / "home"))


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setitem(cli._VERBS, "run", ("workflows.run:run", ""))
    monkeypatch.setattr(sys, "argv", ["encnet", "run", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_every_recipe_has_a_data_set_of_its_classes() -> None:
    assert set(run.LAYOUTS) == set(RECIPES)
    for recipe, layout in run.LAYOUTS.items():
        assert RECIPES[recipe]().model.num_classes == len(KNOWN_LAYOUTS[layout].classes), recipe
    assert set(run._GENERATED) <= set(KNOWN_LAYOUTS)


def test_the_steps_are_those_of_the_plan() -> None:
    from pipeline.chain_plan import STEPS

    assert run._STEPS == STEPS


def test_gates_are_options_with_the_text_of_their_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--max-class-drop VALUE No class's IoU may fall by more than this, as a share of 1; 1: any" in shown
    assert "[default: 0.05]" in shown
    assert read_gates({"min_gain": "0.01", "require_same_data": None}) == GatesConfig(min_gain=0.01)
    assert not {name.partition("__")[0] for name in run._GATES} & set(field_help())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["camvid_r81"], "RECIPE: 'camvid_r81': no such recipe: did you mean 'camvid_r18'?"),
        (["camvid_r18", "--optim.lr", "fast"], "optim.lr: 'fast': input should be a valid number"),
        (["camvid_r18", "--min-gain", "2"], "min_gain: 2.0 is out of range: give a share of 1, e.g. 0.005"),
        (["camvid_r18", "--min-gain", "much"], "min_gain: 'much': input should be a valid number"),
        (["camvid_r18", "--from", "tain"], "encnet run: Invalid value for '--from': 'tain' is not one of 'prepare', "),
        (["camvid_r18"], "stack is not up: MLFLOW_TRACKING_URI is not set: run `encnet stack up`, or"),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert _run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"encnet: {line}")
    assert shown.err.count("\n") == 1


def test_a_layout_that_is_none_is_refused() -> None:
    assert run.find_layout_name("camvid_r18", None) == "camvid"
    assert run.find_layout_name("camvid_r18", "folder") == "folder"
    with pytest.raises(InputError, match=r"^layout: 'camvidd' is not known: did you mean 'camvid'"):
        run.find_layout_name("camvid_r18", "camvidd")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, DatasetInfo]:
    """A small generated data set in a folder."""
    uri = str(tmp_path_factory.mktemp("scenes"))
    request = Request(train_samples=2, val_samples=1)
    return uri, prepare_dataset(find_layout("context-scenes"), request, open_store(uri))[0]


def test_data_that_is_there_is_used_as_it_is(scenes: tuple[str, DatasetInfo]) -> None:
    uri, info = scenes
    config = recipe_config("context_scenes_r18", {"data.uri": uri})
    data = run.open_data(config, "context-scenes", None, is_forced=False)
    assert data.there is not None
    assert data.there.digest == info.digest


def test_data_that_is_not_there_takes_a_source(tmp_path: Path) -> None:
    config = recipe_config("camvid_r18", {"data.uri": str(tmp_path / "none")})
    with pytest.raises(
        InputError, match=r"^source: missing, to prepare .*/none from: give --source, the folder of camvid"
    ):
        run.open_data(config, "camvid", None, is_forced=False)
    generated = recipe_config("context_scenes_r18", {"data.uri": str(tmp_path / "none")})
    assert run.open_data(generated, "context-scenes", None, is_forced=False).there is None


def test_data_that_is_there_is_prepared_again_only_from_a_source(scenes: tuple[str, DatasetInfo]) -> None:
    config = recipe_config("camvid_r18", {"data.uri": scenes[0]})
    with pytest.raises(InputError, match=r"^source: missing"):
        run.open_data(config, "camvid", None, is_forced=True)


def test_another_data_set_is_not_taken_for_the_source_s(scenes: tuple[str, DatasetInfo], tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for folder in ("images/train", "annotations/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images/train/a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "annotations/train/a.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    config = recipe_config("camvid_r18", {"data.uri": scenes[0]})
    with pytest.raises(InputError, match=r"^data: .* holds another data set, prepared with .*context-scenes.*: give"):
        run.open_data(config, "folder", tmp_path, is_forced=False)


def outcome(passed: str) -> Outcome:
    results = {
        "prepare": {"digest": "d", "text": "scenes"},
        "train": {"model_uri": "models:/m/2", "text": "trained"},
        "evaluate": {"miou": "0.5", "text": "mIoU 50.00 %"},
        "gate": {"passed": passed, "verdicts": "mIoU: -1.0 points", "text": "refused"},
    }
    if passed == "yes":
        results["promote"] = {"version": "2", "text": "champion"}
    steps = [Decision(step="gate", does=True, reason="not done yet")]
    return Outcome(run_id="r", run_url="http://m/r", decisions=steps, results=results)


def test_a_refusal_is_a_failure_that_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match=r"^models:/m/2 is not promoted: mIoU: -1\.0 points$"):
        run.end(outcome("no"), as_json=True)
    shown = capsys.readouterr()
    assert '"promoted": false' in shown.out
    run.end(outcome("yes"), as_json=False)
    assert run.as_object(outcome("yes"))["promoted"] is True
    assert run.as_object(outcome("yes"))["miou"] == 0.5


def test_a_step_is_told_with_its_place_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    run.show(Decision(step="train", does=True, reason="not done yet"))
    run.show(Decision(step="gate", does=False, reason="done today: passed"), would=True)
    shown = capsys.readouterr()
    assert shown.err == "[2/5] train     run   not done yet\n"
    assert shown.out == "[4/5] gate      skip  done today: passed\n"
