"""Progress: the facts in words, and the lines that a log gets."""

from __future__ import annotations

import pytest

from pipeline.progress import Facts, Pace, ProgressBoard, ProgressView, describe, duration


def test_the_facts_in_words() -> None:
    assert describe({}) == ""
    assert describe({"step": 3, "steps": 4}) == ""
    facts: Facts = {"epoch": 3, "loss": 1.23449, "miou": 0.4561, "images_per_s": 12.34}
    assert describe(facts) == "epoch 3  loss 1.234  mIoU 45.6 %  12.3 images/s"
    assert describe({"loss": 0.5}) == "loss 0.500"


def test_a_board_keeps_the_latest_of_each_fact() -> None:
    board = ProgressBoard()
    board.post({"step": 1, "loss": 2.0})
    board.post({"step": 2})
    facts = board.read()
    assert facts == {"step": 2, "loss": 2.0}
    facts["step"] = 9
    assert board.read()["step"] == 2


def test_a_log_gets_a_line_with_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView("run", lambda: {"step": 8, "steps": 8, "epoch": 2, "loss": 0.25}):
        pass
    assert capsys.readouterr().err == "run  step 8/8  epoch 2  loss 0.250\n"


def test_where_it_ended_early_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView("evaluate", lambda: {"step": 3, "steps": 8}, unit="image"):
        pass
    assert capsys.readouterr().err == "evaluate  image 3/8\n"


def test_nothing_is_said_before_there_is_anything_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView("run", lambda: {}):
        pass
    assert capsys.readouterr().err == ""


def test_the_time_left_leaves_restarts_out() -> None:
    pace = Pace()
    assert pace.left_s(5) is None
    for step in range(1, 11):
        pace.add(10.0 + 2 * step, step)
    assert pace.left_s(5) == pytest.approx(10.0)
    assert pace.left_s(0) is None
    pace.pause()  # a worker died, and half a minute passed until it went on from step 8
    pace.add(60.0, 8)
    pace.add(62.0, 9)
    pace.add(62.5, 9)
    pace.add(64.0, 10)
    assert pace.left_s(5) == pytest.approx(10.0)
    pace.forget()  # fewer workers
    assert pace.left_s(5) is None
    pace.add(100.0, 10)
    pace.add(104.0, 11)
    assert pace.left_s(5) == pytest.approx(20.0)


def test_the_time_left_follows_a_change_of_speed() -> None:
    pace, now = Pace(), 0.0
    for step in range(3000):
        now += 1.0 if step < 1000 else 3.0
        pace.add(now, step)
    assert pace.left_s(10) == pytest.approx(30.0, rel=0.05)


def test_times_in_words() -> None:
    assert [duration(seconds) for seconds in (4.4, 99, 100, 5990, 11100)] == [
        "4 s",
        "99 s",
        "2 min",
        "1 h 40 min",
        "3 h 05 min",
    ]


def test_a_line_between_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView("run", lambda: {}) as view:
        view.say("run  restarting")
    assert capsys.readouterr().err == "run  restarting\n"
