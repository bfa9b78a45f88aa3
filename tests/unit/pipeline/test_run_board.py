"""The board of a run: who is where, and what is asked of the workers."""

from __future__ import annotations

import threading

import pytest

from pipeline import run_board
from pipeline.run_board import STOP, Pulse, RunBoard, silent_pulse


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(run_board.time, "monotonic", lambda: now[0])
    return now


def test_a_beat_tells_where_a_worker_is_and_since_when(clock: list[float]) -> None:
    board = RunBoard()
    board.join(0, 2, "node-a", 11)
    board.join(1, 2, "node-b", 12)
    for second, step in ((1, 5), (2, 5), (3, 6)):
        clock[0] = 100.0 + second
        board.beat(0, step, "step")
        if second == 1:
            board.beat(1, 5, "data")
    clock[0] = 104.0
    seen = board.look()
    assert seen.size == 2
    assert (seen.beats[0].step, seen.beats[0].phase, seen.beats[0].node) == (6, "step", "node-a")
    assert (seen.beats[0].silent_s, seen.beats[0].same_s) == (1.0, 1.0)
    assert (seen.beats[1].step, seen.beats[1].phase, seen.beats[1].node) == (5, "data", "node-b")
    assert (seen.beats[1].silent_s, seen.beats[1].same_s) == (3.0, 3.0)


def test_what_is_asked_comes_back_with_the_beat() -> None:
    board = RunBoard()
    assert board.beat(0, 1, "step") == ""
    board.ask(STOP)
    assert board.beat(0, 2, "step") == board.asked() == STOP
    board.open_attempt()
    assert board.beat(0, 0, "start") == ""


def test_a_new_group_of_workers_drives_the_one_before_out() -> None:
    board = RunBoard()
    board.join(0, 2, "a", 11)
    board.join(1, 2, "a", 12)
    board.join(0, 1, "a", 13)
    assert (board.look().size, list(board.look().beats)) == (1, [0])
    board.join(0, 1, "a", 14)  # as large, but another process
    board.join(0, 1, "a", 14)
    assert list(board.look().beats) == [0]


def test_an_attempt_keeps_the_facts_only() -> None:
    board = RunBoard()
    board.post({"step": 3, "steps": 9})
    board.join(0, 1, "a", 11)
    board.note("broken checkpoint", "step_3: digest", 3)
    (note,) = board.look().notes
    assert (note.kind, note.detail, note.step) == ("broken checkpoint", "step_3: digest", 3)
    assert note.at > 1e9
    board.open_attempt()
    seen = board.look()
    assert (seen.facts, seen.size, seen.beats, seen.notes) == ({"step": 3, "steps": 9}, 0, {}, [])


def test_a_pulse_tells_the_latest_place_and_brings_back_what_is_asked() -> None:
    told: list[tuple[int, str]] = []
    enough = threading.Event()

    def tell(step: int, phase: str) -> str:
        told.append((step, phase))
        if told[-1] == (7, "data"):
            enough.set()
        return STOP

    with Pulse(tell, every_s=0.01) as pulse:
        pulse.at(6, "step")
        pulse.at(7, "data")
        assert enough.wait(10)
        assert pulse.asked == STOP
    count = len(told)
    assert told[-1] == (7, "data")
    assert threading.active_count() == 1 or not any(thread.name == "pulse" for thread in threading.enumerate())
    assert len(told) == count


def test_where_it_failed_is_told_to_the_step() -> None:
    told: list[tuple[int, str]] = []

    def tell(step: int, phase: str) -> str:
        told.append((step, phase))
        return ""

    with pytest.raises(ValueError, match="a bug"), Pulse(tell, every_s=60.0) as pulse:
        _fail_at(pulse, 41)
    assert told[-1] == (41, "step")


def _fail_at(pulse: Pulse, step: int) -> None:
    pulse.at(step, "step")
    raise ValueError("a bug")


def test_without_a_board_nothing_is_asked() -> None:
    with Pulse(silent_pulse, every_s=0.01) as pulse:
        pulse.at(1, "step")
        assert pulse.asked == ""
