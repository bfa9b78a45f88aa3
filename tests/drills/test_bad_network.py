"""A network that spoils one read in 20, and a store that goes away in mid-epoch: an epoch is what it always is.

An index is made good as well, and closing a loader does not wait for a store that is away.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from infra.local import stack as local_stack
from pipeline.eval_loader import EvalLoader
from pipeline.shards import read_index
from pipeline.storage import open_store
from pipeline.world import World
from tests.drills.bad_network import FAULTS, bad_network
from tests.drills.epochs import Epoch, assert_same, open_epoch, read_epoch, write_scenes
from tests.running_stack import RunningStack

DATA = "s3://encnet/drills/bad-network"


@pytest.fixture(scope="module")
def undisturbed(stack: RunningStack) -> Epoch:
    write_scenes(DATA, 400)
    return read_epoch(DATA)


@pytest.mark.parametrize("seed", [3, 15])
def test_an_epoch_over_a_bad_network_is_the_undisturbed_one(
    stack: RunningStack, undisturbed: Epoch, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bad_network(stack.environment["AWS_ENDPOINT_URL"], seed=seed) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        epoch = read_epoch(DATA)
        print(f"\n{network.reads} reads, {dict(network.done)}: {epoch.seconds:.1f} s, else {undisturbed.seconds:.1f} s")
    assert_same(epoch, undisturbed)
    assert all(network.done[fault] for fault in FAULTS), network.done


def test_a_store_restarted_in_mid_epoch_changes_nothing(stack: RunningStack, undisturbed: Epoch) -> None:
    def restart() -> None:
        time.sleep(1.0)
        pid = next(part.pid for part in local_stack.status(stack.home) if part.name == "s3")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        time.sleep(2.0)
        local_stack.up(stack.home)

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        epoch = read_epoch(DATA, pause_s=0.1)
        was_back = not restarting.is_alive()
    finally:
        restarting.join()
    assert was_back, "the epoch was over before the store was back"
    print(f"\n{epoch.seconds:.1f} s")
    assert_same(epoch, undisturbed)


@pytest.mark.parametrize("suffix", ["dataset.json", "index.parquet"])
def test_an_index_is_the_undisturbed_one_too(
    stack: RunningStack, undisturbed: Epoch, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = read_index(open_store(DATA), "train").digest()
    with bad_network(stack.environment["AWS_ENDPOINT_URL"], seed=1, one_in=4, suffix=suffix) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        assert {read_index(open_store(DATA), "train").digest() for _ in range(60)} == {digest}
        print(f"\n{network.reads} reads, {dict(network.done)}")
    assert network.done["flip"], network.done


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_closing_does_not_wait_for_a_store_that_is_away(
    stack: RunningStack, undisturbed: Epoch, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bad_network(stack.environment["AWS_ENDPOINT_URL"], seed=1, one_in=1 << 60) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        if kind == "training":
            loader, _ = open_epoch(DATA)
            batches: Any = loader
        else:
            store = open_store(DATA)
            batches = iter(EvalLoader(store, read_index(store, "train"), world=World(), block_bytes=16_000))
        next(batches)
        time.sleep(1.0)  # for what is asked for by now to be there
    for _ in range(3):
        next(batches)
    time.sleep(2.0)  # for the reads to be in long pauses
    began = time.monotonic()
    batches.close()
    seconds = time.monotonic() - began
    print(f"\n{seconds:.2f} s")
    assert seconds < 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encnet-")]
