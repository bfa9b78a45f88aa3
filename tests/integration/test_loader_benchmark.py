"""The loader's benchmark runs on a real store, and what it says of our loader holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.benchmarks import loader
from tests.benchmarks.loading import speed
from tests.benchmarks.loading.epochs import SCENARIOS, Loss, run_epoch
from tests.benchmarks.loading.loaders import Share
from tests.benchmarks.loading.samples import write_source
from tests.benchmarks.loading.wire import slow_wire
from tests.running_stack import RunningStack


@pytest.fixture(scope="module")
def share(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Share:
    environment: Mapping[str, str] = {name: value for name, value in stack.environment.items() if "AWS" in name}
    source = write_source(
        tmp_path_factory.mktemp("loading"), environment,
        photo=(48, 64), crop=(40, 48), num_samples=48, num_pictures=8, samples_per_shard=4,
    )  # fmt: skip
    return Share(source=source, endpoint=environment["AWS_ENDPOINT_URL"], scratch=source.folder, workers=1)


@pytest.mark.parametrize("name", ["files", "naive webdataset", "webdataset", "ours", "ours in processes"])
def test_every_loader_gives_each_sample_once(name: str, share: Share) -> None:
    if "webdataset" in name and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    with speed.processes() as pool:
        assert sorted(pool.submit(speed.epoch_samples, name, share).result()) == list(range(48))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ours_loses_and_repeats_nothing(scenario: str, share: Share) -> None:
    assert run_epoch("ours", share, SCENARIOS[scenario]) == Loss(lost=0, repeated=0)


def test_what_is_lost_or_repeated_is_counted(share: Share) -> None:
    """What knows neither ranks nor how to go on begins again on each of them."""
    assert run_epoch("files", share, SCENARIOS["resumed at mid-epoch, 2 workers"]).repeated >= 24


def test_a_slow_wire_delays_and_counts(share: Share) -> None:
    with slow_wire(share.endpoint, 0.2) as wire, speed.processes() as pool:
        far = pool.submit(speed.cold_epoch, "ours", replace(share, endpoint=wire.address)).result()
        assert far.first_batch_s > 0.4  # two connections at least, one after the other
        assert share.source.num_bytes < wire.bytes_sent < 4 * share.source.num_bytes


def test_the_tables_are_filled(share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "is_installed", lambda: False)
    scale = loader.SMALL
    for table in (loader.steady_table(share, scale), loader.cold_table(share, scale)):
        assert table.row_count >= 1
