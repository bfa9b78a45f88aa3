"""`encnet models promote`: its options are the gates', and what is shown of a result."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from pipeline.gates import GatesConfig
from pipeline.promotion import Promotion
from pipeline.verdicts import Verdict
from workflows import cli
from workflows.gate_options import gate_options, read_gates
from workflows.promote import as_plain, summary

PASSED = Verdict(gate="mIoU", passed=True, text="mIoU: more", measured=0.7)
FAILED = Verdict(gate="classes", passed=False, text="classes: pole fell", measured=float("nan"), margin=float("-inf"))


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of anybody's stack."""
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def gates_of(*arguments: str) -> GatesConfig:
    """What these options make of the gates."""
    found = []

    @click.command()
    @gate_options
    def verb(**values: object) -> None:
        found.append(read_gates(values))

    done = CliRunner().invoke(verb, arguments)
    if done.exception:
        raise done.exception
    return found[0]


def test_every_gate_is_an_option_with_its_default() -> None:
    assert gates_of() == GatesConfig()
    set_otherwise = gates_of(
        "--min-gain=0.005", "--max-latency-ms=50", "--max-parameters=1000", "--require-checks=no", "--max-class-drop=1"
    )
    assert set_otherwise == GatesConfig(
        min_gain=0.005, max_latency_ms=50, max_parameters=1000, require_checks=False, max_class_drop=1
    )


def test_a_bound_out_of_range_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^min_gain: 2\.0 is out of range: give a share of 1, e\.g\. 0\.005$"):
        gates_of("--min-gain=2")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["encnet", "models", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_explains_every_gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "promote", "--help") == 0
    shown = capsys.readouterr().out
    for field in fields(GatesConfig):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "No class's IoU may fall by more than this" in shown
    assert "encnet models promote models:/encnet-camvid@candidate" in shown


@pytest.mark.parametrize("verb", ["list", "show", "import", "promote", "rollback", "pull", "export"])
def test_every_verb_teaches_by_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    assert f"  encnet models {verb} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["promote", "models:/street@candidate"], "stack is not up: MLFLOW_TRACKING_URI is not set: run `encnet stack"),
        (["rollback", "street"], "stack is not up: MLFLOW_TRACKING_URI is not set"),
        (["list"], "stack is not up: MLFLOW_TRACKING_URI is not set"),
        (["pull", "models:/street@champion"], "stack is not up: MLFLOW_TRACKING_URI is not set"),
        (["import", "a.pth", "--name=a", "--data=b"], "stack is not up: MLFLOW_TRACKING_URI is not set"),
        (["import", "a.pth", "--name=a"], "encnet models import: Missing option '--data'"),
        (["promote", "street", "--min-gain", "much"], "min_gain: 'much': input should be a valid number, "),
    ],
)
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"encnet: {line}")
    assert shown.err.count("\n") == 1


def result(**changes: object) -> Promotion:
    facts = {"name": "street", "version": "4", "previous": "3", "promoted": True, "moved": True, "verdicts": (PASSED,),
             "miou": 0.7, "champion_miou": 0.6, "run_url": "http://mlflow/r"}  # fmt: skip
    return Promotion(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_result_in_one_line() -> None:
    assert summary(result()) == (
        "models:/street/4 (mIoU 70.00 %) is the champion now, after version 3 (60.00 %); run  http://mlflow/r"
    )
    assert summary(result(previous="", champion_miou=None)).endswith("is the champion now, after no champion; run  "
                                                                     "http://mlflow/r")  # fmt: skip
    assert summary(result(moved=False)) == "models:/street/4 is the champion already"
    assert summary(result(promoted=False, moved=False, verdicts=(FAILED,))) == (
        "models:/street/4 (mIoU 70.00 %) against version 3 (60.00 %): does not pass the gates; run  http://mlflow/r"
    )
    assert summary(result(promoted=False, moved=False, run_url="")) == (
        "models:/street/4 (mIoU 70.00 %) against version 3 (60.00 %): passes the gates, and was not made champion"
    )


def test_a_result_for_scripts_has_no_number_that_json_has_not() -> None:
    told = json.loads(json.dumps(as_plain(result(promoted=False, verdicts=(FAILED,))), allow_nan=False))
    assert (told["model_uri"], told["promoted"], told["previous"]) == ("models:/street/4", False, "3")
    assert (told["verdicts"][0]["measured"], told["verdicts"][0]["margin"]) == (None, None)
