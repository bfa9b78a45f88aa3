"""One at a time, whatever the order in which claims come; and the claims of the dead block nobody for ever."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow import MlflowClient

from pipeline import registry_lease
from pipeline.registry_lease import CLAIM, HOLD_S, Busy, Lease, LeaseLost, Watch, lease


class Tags:
    """A registered model's tags, as a server keeps them: each call is whole, and takes its time."""

    def __init__(self, **tags: str) -> None:
        self.tags = dict(tags)
        self._lock = threading.Lock()

    def get_registered_model(self, name: str) -> SimpleNamespace:
        with self._lock:
            found = dict(self.tags)
        time.sleep(0.001)
        return SimpleNamespace(tags=found)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        time.sleep(0.001)
        with self._lock:
            self.tags[key] = value

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self._lock:
            self.tags.pop(key, None)


def take(tags: Tags, owner: str, **options: Any) -> Any:
    return lease(cast(MlflowClient, tags), "street", owner, **options)


def test_at_most_one_holds_it_and_each_gets_it() -> None:
    tags, inside, most, done = Tags(kind="ours"), [], [0], []

    def work(number: int) -> None:
        for _ in range(5):
            with take(tags, f"worker {number}", sleep=lambda seconds: time.sleep(seconds / 50)):
                inside.append(number)
                most[0] = max(most[0], len(inside))
                time.sleep(0.002)
                inside.remove(number)
            done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert sorted(done) == sorted(list(range(4)) * 5)
    assert tags.tags == {"kind": "ours"}


def test_it_is_given_back_after_a_failure() -> None:
    tags, seen = Tags(), dict[str, str]()

    def fail() -> None:
        with take(tags, "ann"):
            seen.update(tags.tags)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(seen.values()) == ["ann"]
    assert tags.tags == {}


def test_the_claim_of_a_dead_process_is_waited_for_and_then_removed(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    tags = Tags(**{f"{CLAIM}abc": "ann@gone"})
    with (
        caplog.at_level(logging.WARNING, registry_lease.__name__),
        take(tags, "ben", watch=Watch(dead_after_s=30), clock=lambda: now[0], sleep=sleep),
    ):
        assert list(tags.tags.values()) == ["ben"]
    assert 1030 <= now[0] <= 1032
    assert [record.message for record in caplog.records] == [
        "street: waiting for ann@gone, who moves its aliases",
        "street: the claim of ann@gone, which has ended, is removed",
    ]


def test_one_that_never_ends_is_named() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        tags.tags = {f"{CLAIM}{now[0]}": "ann@busy"}  # another claim each time

    tags = Tags(**{f"{CLAIM}0": "ann@busy"})
    with pytest.raises(Busy, match=r"^street: ann@busy has been moving its aliases for long: try again later$"):
        take(tags, "ben", clock=lambda: now[0], sleep=sleep).__enter__()


def test_what_takes_long_is_not_gone_on_with() -> None:
    now = [0.0]
    held = Lease(name="street", claimed_at=0.0, clock=lambda: now[0])
    held.check()
    now[0] = HOLD_S + 1
    with pytest.raises(LeaseLost, match=r"^street: its aliases could not be moved within 20 s: do it again$"):
        held.check()


def test_a_claim_lives_from_when_it_was_first_seen() -> None:
    watch = Watch(dead_after_s=10)
    assert watch.look(["a"], 0) == (["a"], [])
    assert watch.look(["a", "b"], 9) == (["a", "b"], [])
    assert watch.look(["a", "b"], 10) == (["b"], ["a"])
    assert watch.look(["b"], 18.9) == (["b"], [])
    assert watch.look([], 20) == ([], [])
    assert watch.look(["b"], 21) == (["b"], []), "gone and back is another one"
