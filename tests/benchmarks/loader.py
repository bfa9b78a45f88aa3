"""The loader against others, from a real object store: speed, what it reads, and what is lost when it is interrupted.

python -m tests.benchmarks.loader [--small]

`make bench-peers` installs MosaicML Streaming beside; without it, its rows are left out. On CamVid's frames, resized to
the size of a photo, where they are ($ENCNET_TEST_CAMVID, else ../shared/data/camvid); else on generated ones.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.table import Table

from tests.benchmarks import decode, measure
from tests.benchmarks.loading import speed
from tests.benchmarks.loading.epochs import SCENARIOS, run_epoch
from tests.benchmarks.loading.loaders import Share
from tests.benchmarks.loading.object_store import running_store
from tests.benchmarks.loading.samples import Source, write_source
from tests.benchmarks.loading.streaming_peer import is_installed, write_mds
from tests.benchmarks.loading.wire import slow_wire

DELAY_S = 0.02
CORES = 2
NUM_SHARDS = 24
"""Of every data set: what stock webdataset shares out is shards, and 24 can be shared evenly."""
T = TypeVar("T")


class Scale(NamedTuple):
    """How much is measured."""

    photo: tuple[int, int] = decode.PHOTO
    crop: tuple[int, int] = decode.CROP
    frame: tuple[int, int] = (360, 480)
    samples: int = 1632
    pictures: int = 300
    tiny: tuple[int, int] = (120, 160)
    short_samples: int = 480
    """Of the data set of tiny pictures whose epochs are interrupted."""
    rounds: int = 5
    seconds: float = 2.0


SMALL = Scale((64, 86), (48, 48), (48, 64), 96, 8, (40, 48), 48, 1, 0.1)


def steady_table(share: Share, scale: Scale) -> Table:
    """Images a second of loaders that run, each in a process of its own, taken in turn; medians."""
    of_loader = {
        "(a) files: Pillow, DataLoader, float32": "float files",
        "    the same, uint8": "files",
        "(b) webdataset, pipe:curl, Pillow": "naive webdataset",
        "(c) ours, threads": "ours",
        "    ours, processes": "ours in processes",
    }
    rates: dict[str, Callable[[], speed.Rate]] = {}
    with ExitStack() as stack:
        for title, name in of_loader.items():
            if name != "naive webdataset" or shutil.which("curl"):
                pool = stack.enter_context(speed.processes())
                rates[title] = partial(_sum_of, 1, pool, speed.steady_rate, name, share, scale.seconds)
        for title, count in (("(d) decoding alone, threads", 1), ("    decoding alone, processes", CORES)):
            pool = stack.enter_context(speed.processes(count))
            rates[title] = partial(_sum_of, count, pool, speed.decode_rate, share, CORES // count, scale.seconds)
        medians = _interleaved_medians(rates, scale.rounds)
    table = Table("form", title=f"{share.source.title}, batch {share.batch_size}, {CORES} workers")
    for heading in ("images/s (median)", "ours / this", "CPU ms an image", "this / ours"):
        table.add_column(heading, justify="right")
    ours = medians["(c) ours, threads"]
    for title, rate in medians.items():
        by_time = ours.images_per_s / rate.images_per_s
        by_cpu = rate.cpu_ms / ours.cpu_ms if ours.cpu_ms else nan  # of less than a tick of the clock
        table.add_row(title, f"{rate.images_per_s:.0f}", f"{by_time:.2f}", f"{rate.cpu_ms:.2f}", f"{by_cpu:.2f}")
    return table


def _sum_of(count: int, pool: Executor, function: Callable[..., speed.Rate], *arguments: object) -> speed.Rate:
    futures = [pool.submit(function, *arguments) for _ in range(count)]
    rates = [future.result() for future in futures]
    return speed.Rate(sum(rate.images_per_s for rate in rates), statistics.fmean(rate.cpu_ms for rate in rates))


def _interleaved_medians(rates: Mapping[str, Callable[[], speed.Rate]], rounds: int) -> dict[str, speed.Rate]:
    """One round warms up, where there are several."""
    measured: dict[str, list[speed.Rate]] = {name: [] for name in rates}
    for number in range(rounds + (rounds > 1)):
        for name, rate in rates.items():
            value = rate()
            if number or rounds == 1:
                measured[name].append(value)
    return {
        name: speed.Rate(*(statistics.median(column) for column in zip(*values, strict=True)))
        for name, values in measured.items()
    }


def peers() -> dict[str, str]:
    """Title -> name of what ours is compared with, as far as it is installed."""
    found = {"ours": "ours"}
    if is_installed():
        found["MosaicML Streaming (MDS)"] = "streaming"
    if shutil.which("curl"):
        found["webdataset, pipe:curl"] = "webdataset"
    return found


def cold_table(share: Share, scale: Scale) -> Table:
    """Epochs from a cold start, all with our decoding: at once, over a slow wire, and resumed; medians."""
    source = share.source
    measured: dict[str, list[tuple[float, ...]]] = {title: [] for title in peers()}
    with slow_wire(share.endpoint, DELAY_S) as wire:
        for _ in range(min(3, scale.rounds)):
            for title, name in peers().items():
                near = _afresh(speed.cold_epoch, name, share)
                assert near.middle is not None
                resumed_s = _afresh(speed.first_batch_s, name, replace(share, state=near.middle.state))
                before = wire.bytes_sent
                far = _afresh(speed.cold_epoch, name, replace(share, endpoint=wire.address))
                read = (wire.bytes_sent - before) / source.num_bytes
                row = (near.images_per_s, far.images_per_s, read, near.first_batch_s, far.first_batch_s, resumed_s)
                measured[title].append(row)
    delay = f"+{DELAY_S * 1000:.0f} ms"
    table = Table("loader", title=f"{source.title}: one epoch of {source.num_samples} samples, cold, our decoding")
    for heading in (
        "images/s", f"images/s {delay}", "bytes read / size", "first batch s", f"first batch s {delay}",
        "resumed at mid-epoch: first batch s",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for title, rows in measured.items():
        near_rate, far_rate, *others = (statistics.median(column) for column in zip(*rows, strict=True))
        table.add_row(title, f"{near_rate:.0f}", f"{far_rate:.0f}", *(f"{value:.3f}" for value in others))
    return table


def _afresh(function: Callable[..., T], name: str, share: Share) -> T:
    """Call it in a process of its own, with an empty folder for what loaders keep."""
    with speed.processes() as pool, tempfile.TemporaryDirectory(dir=share.scratch) as scratch:
        return pool.submit(function, name, replace(share, scratch=Path(scratch))).result()


def loss_table(share: Share) -> Table:
    """Samples lost and repeated in one epoch that is interrupted."""
    table = Table("loader", title=f"Lost / repeated of {share.source.num_samples} samples in one epoch")
    for scenario in SCENARIOS:
        table.add_column(scenario, justify="right")
    for title, name in peers().items():
        losses = [run_epoch(name, share, parts) for parts in SCENARIOS.values()]
        table.add_row(title, *(f"{loss.lost} / {loss.repeated}" for loss in losses))
    return table


def tables(small: bool) -> Iterator[Table]:
    """Speed at two sizes, cold epochs, and losses."""
    scale = SMALL if small else Scale()
    print(measure.hardware())
    if not is_installed():
        print("MosaicML Streaming is not installed, its rows are left out: make bench-peers")
    with running_store() as settings, tempfile.TemporaryDirectory(prefix="encnet-bench-") as folder:
        write = partial(write_source, Path(folder), settings, num_pictures=scale.pictures)
        sizes = {"num_samples": scale.samples, "samples_per_shard": scale.samples // NUM_SHARDS}
        photos = _share(write(photo=scale.photo, crop=scale.crop, **sizes))
        yield steady_table(photos, scale)
        _write_mds(photos.source)
        yield cold_table(photos, scale)
        yield steady_table(_share(write(photo=scale.frame, crop=scale.frame, **sizes)), scale)
        sizes = {"num_samples": scale.short_samples, "samples_per_shard": scale.short_samples // NUM_SHARDS}
        short = _share(write(photo=scale.tiny, crop=scale.tiny, **sizes), workers=1)
        _write_mds(short.source)
        yield loss_table(short)


def _share(source: Source, workers: int = CORES) -> Share:
    endpoint = source.environment["AWS_ENDPOINT_URL"]
    return Share(source=source, endpoint=endpoint, scratch=source.folder.parent, workers=workers)


def _write_mds(source: Source) -> None:
    """In shards as large as ours."""
    if is_installed():
        with speed.processes() as pool:
            pool.submit(write_mds, source, source.num_bytes // NUM_SHARDS).result()


if __name__ == "__main__":
    measure.main(__doc__, tables)
