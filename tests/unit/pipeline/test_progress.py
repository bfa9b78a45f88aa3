"""Progress: the facts in words, and the lines that a log gets."""

from __future__ import annotations

import pytest

from pipeline.progress import Facts, ProgressBoard, ProgressView, describe


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
