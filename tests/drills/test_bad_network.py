"""A network that spoils one read in 20, and a store that goes away in mid-epoch: an epoch is what it always is."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from infra.local import stack as local_stack
from tests.conftest import RunningStack
from tests.drills.bad_network import FAULTS, bad_network
from tests.drills.epochs import Epoch, assert_same, read_epoch, write_scenes

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
