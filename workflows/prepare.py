"""Write a data set as shards: a folder in a known layout, or a generated set -> tar shards, indexes, dataset.json.

encnet data prepare camvid --source ~/camvid --dest s3://encnet/camvid
encnet data prepare folder --source ~/streets --name streets --dest s3://encnet/streets --ray
encnet data prepare context-scenes --dest s3://encnet/context-scenes
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pipeline.datasets import LAYOUTS, Layout, Request, Source, find_layout
from pipeline.errors import InputError
from pipeline.shard_plan import fitting_samples
from pipeline.shard_runner import Runner, on_threads
from pipeline.shard_task import DoneShard
from pipeline.shard_writer import check_samples, write_dataset
from pipeline.shards import DATASET_KEY, DatasetInfo, read_dataset
from pipeline.storage import Store, open_store
from workflows.data_index import index
from workflows.data_inspect import inspect
from workflows.data_runner import choose_runner, ray_option
from workflows.data_verify import verify
from workflows.split_progress import SplitProgress


@click.group()
def data() -> None:
    """Data sets on storage."""


for verb in (index, verify, inspect):
    data.add_command(verb)


@data.command(epilog=f"Layouts: {', '.join(sorted(LAYOUTS))}.")
@click.argument("layout", metavar="LAYOUT")
@click.option("--source", type=click.Path(path_type=Path), help="The data set's folder, for layouts that are read.")
@click.option("--dest", required=True, metavar="URI", help="Where to: s3://bucket/prefix or a path.")
@click.option(
    "--splits", metavar="A,B", help="Of a data set that is read; left out, those that one trains and tests on."
)
@click.option("--sbd", type=click.Path(path_type=Path), help="SBD's folder benchmark_RELEASE, for voc2012-aug.")
@click.option("--name", help="Of the data set, in dataset.json and in MLflow.  [default: the layout's]")
@click.option(
    "--force", is_flag=True, help="Replace another data set that is there, once all new samples were found sound."
)
@click.option("--train-samples", type=int, help="Pictures to generate for training, for layouts that are generated.")
@click.option("--val-samples", type=int, help="Pictures to generate for validation.")
@click.option("--seed", type=int, help="Of the generator.")
@ray_option
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def prepare(
    layout: str,
    source: Path | None,
    dest: str,
    splits: str | None,
    sbd: Path | None,
    name: str | None,
    force: bool,
    train_samples: int | None,
    val_samples: int | None,
    seed: int | None,
    use_ray: bool,
    as_json: bool,
) -> None:
    """Write the data set in LAYOUT as WebDataset shards with an index.

    Asked for again, it finds the work done, or goes on where it was interrupted: finished shards are read back and
    kept. Another data set at --dest is left alone unless --force is given.

    With --ray, every node of the cluster has to see the folder --source, and --dest.
    """
    # Tasks of a cluster run in other folders.
    request = Request(
        source=source and source.absolute(),
        splits=None if splits is None else tuple(splits.split(",")),
        sbd=sbd and sbd.absolute(),
        train_samples=train_samples,
        val_samples=val_samples,
        seed=seed,
    )
    store = open_store(dest)
    runner = choose_runner(use_ray)
    console = Console(stderr=True)
    with _ended_as_interrupted():
        info, is_new = prepare_dataset(
            find_layout(layout), request, store, name=name, force=force, runner=runner, console=console
        )
    if as_json:
        click.echo(json.dumps(describe(info, store, is_new)))
    else:
        show(info, store, is_new, Console())


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """SIGTERM is taken for SIGINT, so that neither leaves temporary files."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare_dataset(
    layout: Layout,
    request: Request,
    store: Store,
    *,
    name: str | None = None,
    force: bool = False,
    runner: Runner = on_threads,
    console: Console | None = None,
) -> tuple[DatasetInfo, bool]:
    """Write what `request` stands for to `store`, unless it is there; returns it, and whether it was written now.

    Progress goes to `console`. InputError when the source is not as the layout wants it, a sample can't be used, or
    another data set is there and `force` is not set. With `force`, all samples are checked before that one is deleted.
    """
    if name is not None and not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"name: {name!r} is no name of a data set: use letters, digits, '-', '_' and '.'")
    source = layout.open(request)
    arguments = source_arguments(layout, source)
    there = None if force else _find_dataset(store)
    if there is not None:
        if there.source == arguments and name in (None, there.name):
            return there, False
        raise InputError(
            f"{store.uri()}: holds another data set, {there.name!r} prepared with {dict(there.source)}: "
            "give another --dest, or --force to replace it"
        )
    console = console or Console(stderr=True)
    if force and store.exists(DATASET_KEY):
        _check(layout, source, store, runner, console)
    info = _write(layout, source, store, name or layout.name, arguments, runner, console)
    for note in missing_samples(layout, source):
        console.print(note)
    return info, True


def source_arguments(layout: Layout, source: Source) -> dict[str, Any]:
    """What `dataset.json` says a data set was prepared from."""
    return {"layout": layout.name, "version": layout.version, **source.arguments}


def _check(layout: Layout, source: Source, store: Store, runner: Runner, console: Console) -> None:
    """Raise InputError for a sample that can't be used, with nothing written or deleted."""
    with _progress(source, "samples checked", console) as progress:
        check_samples(
            store,
            {split: found.samples for split, found in source.splits.items()},
            num_classes=len(layout.classes if source.classes is None else source.classes),
            samples_per_shard=_samples_per_shard(source),
            runner=runner,
            done=lambda shard: progress(shard.split, len(shard.contents.keys)),
        )


def _write(
    layout: Layout,
    source: Source,
    store: Store,
    name: str,
    arguments: dict[str, Any],
    runner: Runner,
    console: Console,
) -> DatasetInfo:
    shards: list[bool] = []
    with _progress(source, "samples written", console) as progress:

        def done(shard: DoneShard) -> None:
            shards.append(shard.was_there)
            progress(shard.split, len(shard.contents.keys))

        info = write_dataset(
            store,
            {split: found.samples for split, found in source.splits.items()},
            name=name,
            version=layout.version,
            classes=layout.classes if source.classes is None else source.classes,
            palette=layout.palette if source.palette is None else source.palette,
            source=arguments,
            samples_per_shard=_samples_per_shard(source),
            runner=runner,
            done=done,
        )
    if any(shards):
        console.print(f"{sum(shards)} of {len(shards)} shards were there already")
    return info


def _progress(source: Source, what: str, console: Console) -> SplitProgress:
    return SplitProgress(console, {split: len(found.samples) for split, found in source.splits.items()}, what)


def _samples_per_shard(source: Source) -> dict[str, int]:
    return {split: fitting_samples(len(found.samples), found.num_bytes) for split, found in source.splits.items()}


def missing_samples(layout: Layout, source: Source) -> list[str]:
    """A line for each split that is smaller than the published one."""
    return [
        f"{split}: {len(found.samples):,} samples, {published:,} were published: is {layout.name} there whole?"
        for split, found in source.splits.items()
        if len(found.samples) < (published := layout.published_counts.get(split, 0))
    ]


def _find_dataset(store: Store) -> DatasetInfo | None:
    store.ensure_bucket()
    return read_dataset(store) if store.exists(DATASET_KEY) else None


def describe(info: DatasetInfo, store: Store, is_new: bool) -> dict[str, object]:
    """What a script reads."""
    splits = {
        name: {"samples": split.samples, "shards": split.shards, "bytes": split.bytes, "digest": split.digest}
        for name, split in info.splits.items()
    }
    return {
        "name": info.name,
        "uri": store.uri(),
        "prepared": is_new,
        "classes": len(info.classes),
        "digest": info.digest,
        "splits": splits,
    }


def show(info: DatasetInfo, store: Store, is_new: bool, console: Console) -> None:
    """What a person reads."""
    title = f"{info.name}: {'written to' if is_new else 'already prepared at'} {store.uri()}"
    table = Table("split", "samples", "shards", "bytes", "digest", title=title, title_justify="left")
    for name, split in info.splits.items():
        table.add_row(name, f"{split.samples:,}", str(split.shards), f"{split.bytes:,}", split.digest[:12])
    console.print(table)


if __name__ == "__main__":
    sys.exit(data())
