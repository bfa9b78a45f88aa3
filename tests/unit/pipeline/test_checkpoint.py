"""Checkpoints: what is loaded goes on as if it had never stopped, and only in the run it belongs to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import encnet
from pipeline.checkpoint import (
    EMA,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    BrokenCheckpoint,
    RunState,
    read_state,
    write_snapshot,
)
from pipeline.errors import InputError, StorageError
from tests.unit.pipeline.small_training import BEGUN, CONFIG, SmallTraining, tiny_snapshot

STATE_NOW = replace(BEGUN, step=2, samples=4, miou=0.25, losses=[1.5, 0.1], points=[[2, 1, {"a": 0.5}]])


@pytest.mark.parametrize("averaged", [False, True])
def test_a_resumed_run_has_the_same_losses_to_the_last_bit(tmp_path: Path, averaged: bool) -> None:
    through = SmallTraining(seed=0, averaged=averaged)
    through.steps(0, 2)
    written = write_snapshot(tmp_path, through.snapshot(STATE_NOW))
    resumed = SmallTraining(seed=1, averaged=averaged)
    assert resumed.load(tmp_path) == written
    assert resumed.steps(2, 5) == through.steps(2, 5)
    for one, other in zip(_averages(through), _averages(resumed), strict=True):
        assert torch.equal(one, other)


def _averages(training: SmallTraining) -> list[torch.Tensor]:
    return list(training.ema.net.state_dict().values()) if training.ema else []


def test_training_may_go_on_while_a_snapshot_is_written(tmp_path: Path) -> None:
    at_once, later = tmp_path / "at_once", tmp_path / "later"
    training = SmallTraining(averaged=True)
    training.steps(0, 2)
    snapshot = training.snapshot(STATE_NOW)
    for folder in (at_once, later):
        folder.mkdir()
        state = write_snapshot(folder, snapshot)
        training.steps(2, 4)
    for name in (WEIGHTS, EMA):
        before, after = load_file(at_once / name), load_file(later / name)
        assert all(torch.equal(before[key], after[key]) for key in before | after), name
    assert (at_once / OPTIMIZER).read_bytes() == (later / OPTIMIZER).read_bytes()
    assert state.scored_weights == EMA


def test_the_files_are_those_that_others_can_read(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path, SmallTraining().snapshot(STATE_NOW))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, OPTIMIZER, STATE])
    assert read_state(tmp_path) == written == replace(STATE_NOW, files=written.files)
    assert {name: file.bytes for name, file in written.files.items()} == {
        name: (tmp_path / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)
    }
    assert json.loads((tmp_path / STATE).read_text())["losses"] == [1.5, 0.1]
    saved = torch.load(tmp_path / OPTIMIZER, weights_only=True)
    assert set(saved) == {"optimizer", "scaler"}
    _, config = encnet.load_model(tmp_path / WEIGHTS)
    assert config == CONFIG
    assert written.scored_weights == WEIGHTS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 6}, "seed: 6, but the run to resume was started with 5: use another --name"),
        ({"data_digest": "x"}, "data_digest: 'x', but the run to resume was started with 'abc': use another --name"),
        ({"batch_size": 8}, "batch_size: 8, but the run to resume was started with 2: use another --name"),
    ],
)
def test_another_order_of_samples_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    write_snapshot(tmp_path, SmallTraining(seed=0).snapshot(STATE_NOW))
    other = SmallTraining(seed=1)
    before = [parameter.detach().clone() for parameter in other.net.parameters()]
    with pytest.raises(InputError) as caught:
        other.load(tmp_path, replace(STATE_NOW, **changed))  # type: ignore[arg-type]
    assert str(caught.value) == message
    for was, parameter in zip(before, other.net.parameters(), strict=True):
        assert torch.equal(was, parameter.detach())


@pytest.mark.parametrize(("was", "word"), [(True, "with"), (False, "without")])
def test_averaged_weights_do_not_come_or_go_when_a_run_is_resumed(tmp_path: Path, was: bool, word: str) -> None:
    write_snapshot(tmp_path, SmallTraining(averaged=was).snapshot())
    with pytest.raises(InputError, match=f"^optim.ema_decay: the run to resume was started {word} averaged weights: "):
        SmallTraining(averaged=not was).load(tmp_path)


def test_a_state_that_was_changed_is_found_out() -> None:
    text = STATE_NOW.to_json()
    assert RunState.from_json(text) == STATE_NOW
    for broken in (text.replace("0.25", "0.26"), text[:-5], "", "[]", "{}", '{"sha256": "x"}', "\0" * 100):
        with pytest.raises(BrokenCheckpoint, match=r"^state\.json: "):
            RunState.from_json(broken)
    assert RunState.from_json(replace(STATE_NOW, miou=None, losses=[float("inf")]).to_json()).losses == [float("inf")]


def test_the_best_score_and_how_long_ago_it_was() -> None:
    state = BEGUN
    seen = []
    for step, miou in enumerate((0.0, 0.0, 0.3, 0.2, 0.3, 0.4), start=1):
        state = replace(state, step=step).scored(miou)
        seen.append((state.miou, state.best_miou, state.best_step, state.num_since_best))
    assert seen == [
        (0.0, 0.0, 1, 0), (0.0, 0.0, 1, 1), (0.3, 0.3, 3, 0), (0.2, 0.3, 3, 1), (0.3, 0.3, 3, 2), (0.4, 0.4, 6, 0),
    ]  # fmt: skip


def test_a_folder_that_can_not_take_it_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StorageError) as caught:
        write_snapshot(missing, tiny_snapshot(7))
    assert str(caught.value).startswith(f"{missing}: the checkpoint of step 7 could not be written: ")
    assert str(caught.value).endswith(": make room there, or name another folder in TMPDIR")
