"""Requests that all ranks act on at the same step, and when rank 0 makes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.signals import AFTER_LOST_S, NOTHING, PREEMPTION_CHECK_EVERY_S, Clock, Requests, Signals
from pipeline.world import World
from tests.unit.encnet.ranks import Ranks

STOP = Requests(stop=True)
CHECKPOINT = Requests(checkpoint=True)


def test_one_rank_hears_itself_a_step_later() -> None:
    with Signals(World(), 10.0) as signals:
        heard = [signals.exchange(asked) for asked in (NOTHING, STOP, CHECKPOINT, NOTHING, NOTHING)]
    assert heard == [NOTHING, NOTHING, STOP, CHECKPOINT, NOTHING]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    group = Ranks(3, tmp_path_factory.mktemp("ranks"))
    yield group
    group.close()


def _hear(rank: int, asked: list[dict[int, Requests]]) -> list[Requests]:
    with Signals(World(rank, 3), 10.0) as signals:
        return [signals.exchange(of_step.get(rank, NOTHING)) for of_step in asked]


def test_all_ranks_hear_the_same_at_the_same_step(ranks: Ranks) -> None:
    asked: list[dict[int, Requests]] = [
        {},
        {0: CHECKPOINT, 2: STOP},
        {1: STOP},
        {},
        {0: Requests(preemption_check=True)},
        {},
    ]
    both = Requests(stop=True, checkpoint=True)
    expected = [NOTHING, NOTHING, both, STOP, NOTHING, Requests(preemption_check=True)]
    assert ranks.run(_hear, asked) == [expected] * 3


def test_nobody_is_kept_waiting_for_the_end(ranks: Ranks) -> None:
    assert ranks.run(_hear, [{1: STOP}]) == [[NOTHING]] * 3  # what is asked last is never heard, and nobody hangs


class _Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_asks_for_checkpoints_and_checks() -> None:
    time = _Time()
    clock = Clock(100.0, time)
    assert clock.due() == NOTHING
    time.now += PREEMPTION_CHECK_EVERY_S
    assert clock.due() == Requests(preemption_check=True)
    assert clock.due() == NOTHING
    time.now += 100.0
    assert clock.due() == Requests(checkpoint=True, preemption_check=True)
    assert clock.due() == CHECKPOINT, "until one is taken"
    clock.saved()
    assert clock.due() == NOTHING
    time.now += AFTER_LOST_S
    assert not clock.due().checkpoint
    assert clock.due(lost_one=True).checkpoint
    assert not Clock(1.0, time).due(lost_one=True).checkpoint
