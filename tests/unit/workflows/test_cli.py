"""The command: its verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from infra.local.errors import StackError, StackInputError
from pipeline.errors import InputError, PipelineError
from workflows import cli


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["encnet", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of anybody's stack, and none of these tests' left behind."""
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TRAIN_ENABLE_V2", "1")


@pytest.mark.parametrize("verb", [[], *([name] for name in cli._VERBS)])
def test_every_verb_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    assert _run(monkeypatch, *verb, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: {' '.join(['encnet', *verb])} ")
    if not verb:
        for name in cli._VERBS:
            assert f"\n  {name} " in shown


def test_help_loads_no_framework() -> None:
    code = (
        "import sys; sys.argv = ['encnet', '--help']\n"
        "from workflows import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "encnet: encnet: No such command 'trian'."),
        (["train"], "encnet: RECIPE: missing: name one of context_scenes_r18, "),
        (["train", "x", "--optim.max-step", "1"], "encnet: encnet train: No such option '--optim.max-step'."),
        (["evaluate", "x"], "encnet: encnet evaluate: Missing option '--data'."),
        (["stack", "up", "--num-cpus", "0"], "encnet: encnet stack up: Invalid value for '--num-cpus': 0 is not in"),
    ],
)
def test_a_wrong_usage_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert _run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(line)
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("field: 3: \n  give 4"), 2, "encnet: field: 3: give 4\n"),
        (StackInputError("port: taken"), 2, "encnet: port: taken\n"),
        (PipelineError("a run failed"), 1, "encnet: a run failed\n"),
        (StackError("a part died"), 1, "encnet: a part died\n"),
        (KeyboardInterrupt(), 130, "encnet: interrupted\n"),
    ],
)
def test_an_error_s_class_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    assert _run_raising(monkeypatch, error) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.removeprefix("\n")) == ("", line)


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        _run_raising(monkeypatch, ZeroDivisionError("a bug"))


def _run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    @click.command()
    def verb() -> None:
        raise error

    monkeypatch.setitem(cli.cli.commands, "verb", verb)
    monkeypatch.setattr(cli._Verbs, "get_command", click.Group.get_command)
    return _run(monkeypatch, "verb")
