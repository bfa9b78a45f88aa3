"""Read a whole data set and check it against its index.

encnet data verify s3://bucket/camvid
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import click

from workflows.data_runner import choose_runner, ray_option

if TYPE_CHECKING:
    from pipeline.verify import SplitReport

MAX_SHOWN = 20


@click.command()
@click.argument("uri", metavar="URI")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split; may be repeated.")
@ray_option
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def verify(uri: str, splits: tuple[str, ...], use_ray: bool, as_json: bool) -> None:
    """Read all samples at URI: checksums, sizes, label ids, duplicate keys, shards against index and dataset.json.

    Each fault is named on stderr, by shard and key, the first 20 of them; the exit code is 1 if there is any.
    """
    from rich.console import Console

    from pipeline.errors import DataError, InputError, did_you_mean
    from pipeline.shards import read_dataset
    from pipeline.storage import open_store
    from pipeline.verify import verify_split
    from workflows.split_progress import SplitProgress

    store = open_store(uri)
    runner = choose_runner(use_ray)
    info = read_dataset(store)
    for split in splits:
        if split not in info.splits:
            raise InputError(f"split: {split!r} is not in {store.uri()}: {did_you_mean(split, info.splits)}")
    counts = {split: found.shards for split, found in info.splits.items() if not splits or split in splits}
    with SplitProgress(Console(stderr=True), counts, "shards read") as progress:
        reports = {split: verify_split(store, info, split, partial(progress, split), runner=runner) for split in counts}
    faults = [fault for report in reports.values() for fault in report.faults]
    for fault in faults[:MAX_SHOWN]:
        click.echo(str(fault), err=True)
    if as_json:
        click.echo(json.dumps({"uri": store.uri(), "splits": {name: _described(one) for name, one in reports.items()}}))
    else:
        show(f"{info.name} at {store.uri()}", reports)
    if faults:
        noun = "fault" if len(faults) == 1 else "faults"
        more = f", of which {MAX_SHOWN} are named" if len(faults) > MAX_SHOWN else ""
        raise DataError(f"{store.uri()}: {len(faults)} {noun}{more}: restore the shards, or write or index them again")


def _described(report: SplitReport) -> dict[str, object]:
    faults = [fault._asdict() for fault in report.faults]
    return {"samples": report.samples, "bytes": report.bytes, "faults": faults}


def show(title: str, reports: dict[str, SplitReport]) -> None:
    """What a person reads."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for column in ("split", "samples sound", "bytes read", "faults"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, report in reports.items():
        table.add_row(name, *(f"{count:,}" for count in (report.samples, report.bytes, len(report.faults))))
    Console().print(table)
