"""Time and memory of calls that are compared with one another, the table they are shown in, and the command line."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pipeline.provenance import git_commit, node_facts

THREADS = 2

TURN_S = 0.05
"""How long one call is at it before the next one has its turn."""

Call = Callable[[], object]


def interleaved_medians(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Median seconds of each call, taken in turn so that what slows the machine slows them all; one round warms up.

    A short call is repeated until its turn has lasted TURN_S, or what the others left in the caches would be measured.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            seconds = _mean_seconds(call)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _mean_seconds(call: Call) -> float:
    began, calls, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < TURN_S:
        call()
        calls, elapsed = calls + 1, time.perf_counter() - began
    return elapsed / calls


def extra_peak_bytes(prepare: Callable[..., Call], *arguments: object) -> int:
    """What a call adds to the peak resident memory of a fresh process (Linux only).

    Args:
        prepare: a function of a module, run in that process first, not measured: it makes the inputs, warms up at a
            small size, and returns the call.
        arguments: of prepare.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_extra_peak, torch.get_num_threads(), prepare, arguments).result()


def _extra_peak(threads: int, prepare: Callable[..., Call], arguments: tuple[object, ...]) -> int:
    torch.set_num_threads(threads)
    call = prepare(*arguments)
    # Not getrusage's ru_maxrss: across fork and exec it starts at the peak of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def compare(title: str, seconds: Mapping[str, float], peaks: Mapping[str, int] | None = None) -> Table:
    """A row per form; the first is what the others are compared with."""
    first = next(iter(seconds))
    table = Table("form", title=title)
    for heading in ("seconds (median)", "times as fast", *(("extra peak MiB", "of the first's") if peaks else ())):
        table.add_column(heading, justify="right")
    for form, value in seconds.items():
        cells = [form, f"{value:.4f}", f"{seconds[first] / value:.2f}"]
        if peaks:
            share = f"1/{peaks[first] / peaks[form]:.1f}" if peaks[form] else "-"
            cells += [f"{peaks[form] / 2**20:.1f}", share]
        table.add_row(*cells)
    return table


def hardware() -> str:
    """This machine, in words, and what it runs."""
    facts = node_facts()
    python = facts["versions"]["python"]
    return f"{facts['cpu']}, {facts['cores']} cores, Python {python}, commit {git_commit()}"


def main(description: str, tables: Callable[[bool], Iterable[Table]]) -> None:
    """Parse the command line and print tables(small)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    small = parser.parse_args().small
    torch.set_num_threads(THREADS)
    console = Console()
    if not console.is_terminal:
        console.width = 140  # not the 80 that it takes a file's lines to be
    for table in tables(small):
        console.print(table)
