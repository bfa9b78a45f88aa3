"""Write a data set as shards: a folder in a known layout, or a generated set -> tar shards, indexes, dataset.json.

encnet data prepare camvid --source ~/camvid --dest s3://encnet/camvid
encnet data prepare context-scenes --dest s3://encnet/context-scenes
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.datasets import LAYOUTS, Layout, Request, Source, find_layout
from pipeline.errors import InputError
from pipeline.shard_writer import write_dataset
from pipeline.shards import DATASET_KEY, DatasetInfo, Sample, read_dataset
from pipeline.storage import Store, open_store
from workflows.data_index import index
from workflows.data_inspect import inspect
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
@click.option("--force", is_flag=True, help="Replace another data set that is there.")
@click.option("--train-samples", type=int, help="Pictures to generate for training, for layouts that are generated.")
@click.option("--val-samples", type=int, help="Pictures to generate for validation.")
@click.option("--seed", type=int, help="Of the generator.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def prepare(
    layout: str,
    source: Path | None,
    dest: str,
    splits: str | None,
    sbd: Path | None,
    force: bool,
    train_samples: int | None,
    val_samples: int | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Write the data set in LAYOUT as WebDataset shards with an index.

    Asked for again, it finds the work done; another data set at --dest is left alone unless --force is given.
    """
    request = Request(
        source=source,
        splits=None if splits is None else tuple(splits.split(",")),
        sbd=sbd,
        train_samples=train_samples,
        val_samples=val_samples,
        seed=seed,
    )
    store = open_store(dest)
    info, is_new = prepare_dataset(find_layout(layout), request, store, force=force, console=Console(stderr=True))
    if as_json:
        click.echo(json.dumps(describe(info, store, is_new)))
    else:
        show(info, store, is_new, Console())


def prepare_dataset(
    layout: Layout, request: Request, store: Store, *, force: bool = False, console: Console | None = None
) -> tuple[DatasetInfo, bool]:
    """Write what `request` stands for to `store`, unless it is there; returns it, and whether it was written now.

    Progress goes to `console`. InputError when the source is not as the layout wants it, a sample can't be used, or
    another data set is there and `force` is not set.
    """
    source = layout.open(request)
    arguments = {"layout": layout.name, "version": layout.version, **source.arguments}
    there = None if force else _find_dataset(store)
    if there is not None:
        if there.source == arguments:
            return there, False
        raise InputError(
            f"{store.uri()}: holds another data set, {there.name!r} prepared with {dict(there.source)}: "
            "give another --dest, or --force to replace it"
        )
    console = console or Console(stderr=True)
    counts = {name: split.count for name, split in source.splits.items()}
    with SplitProgress(console, counts, "samples written") as progress:
        splits = {name: _follow(progress, name, split.samples) for name, split in source.splits.items()}
        info = write_dataset(
            store,
            splits,
            name=layout.name,
            version=layout.version,
            classes=layout.classes if source.classes is None else source.classes,
            palette=layout.palette if source.palette is None else source.palette,
            source=arguments,
        )
    for note in missing_samples(layout, source):
        console.print(note)
    return info, True


def missing_samples(layout: Layout, source: Source) -> list[str]:
    """A line for each split that is smaller than the published one."""
    return [
        f"{split}: {found.count:,} samples, {published:,} were published: is {layout.name} there whole?"
        for split, found in source.splits.items()
        if found.count < (published := layout.published_counts.get(split, 0))
    ]


def _find_dataset(store: Store) -> DatasetInfo | None:
    store.ensure_bucket()
    return read_dataset(store) if store.exists(DATASET_KEY) else None


def _follow(progress: SplitProgress, split: str, samples: Iterable[Sample]) -> Iterator[Sample]:
    """The same samples, told of as they pass."""
    for sample in samples:
        yield sample
        progress(split)


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
