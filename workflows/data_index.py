"""Index shards that others wrote, so that they can be trained on where they lie.

encnet data index s3://bucket/shards --classes classes.txt --split train=train-*.tar --split val=val-*.tar
encnet data index ~/voc --classes voc.txt --image-ext jpg --label-ext png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflows.data_runner import choose_runner, ray_option

if TYPE_CHECKING:
    from pipeline.shards import DatasetInfo
    from pipeline.storage import Store


@click.command()
@click.argument("uri", metavar="URI")
@click.option(
    "--classes",
    "classes_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A class a line, by id from 0 on: its name, then red, green and blue, on all lines or none.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME=PATTERN",
    help="The shards of a split: a pattern such as train-*.tar or a prefix, below URI; once per split.  "
    "[default: each folder with .tar files is a split]",
)
@click.option(
    "--image-ext",
    metavar="A,B",
    help="Extensions of images, the first there is taken.  [default: jpg,jpeg,png but for those of labels]",
)
@click.option(
    "--label-ext",
    default="seg.png",
    show_default=True,
    metavar="A,B",
    help="Extensions of labels: PNGs of class ids, grey or with a palette, of at most 8 bits.",
)
@click.option("--ignore-index", default=255, show_default=True, help="The id in labels of what is ignored.")
@click.option("--name", help="Of the data set.  [default: the last part of URI]")
@click.option("--force", is_flag=True, help="Replace the indexes that are there.")
@ray_option
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def index(
    uri: str,
    classes_file: Path,
    splits: tuple[str, ...],
    image_ext: str | None,
    label_ext: str,
    ignore_index: int,
    name: str | None,
    force: bool,
    use_ray: bool,
    as_json: bool,
) -> None:
    """Write dataset.json and an index per split for WebDataset shards at URI, which are left as they are.

    Each sample needs an image and a label of one size; members with other extensions are passed over. Members may
    stand in any order, but reading is quick only where those of a sample stand side by side.
    """
    from rich.console import Console

    from pipeline.dataset_index import find_shards, member_names, write_index
    from pipeline.datasets.folder import read_classes
    from pipeline.errors import InputError
    from pipeline.shards import DATASET_KEY
    from pipeline.storage import open_store
    from workflows.split_progress import SplitProgress

    store = open_store(uri)
    runner = choose_runner(use_ray)
    classes, palette = read_classes(classes_file)
    members = member_names(image_ext.split(",") if image_ext else None, label_ext.split(","))
    patterns = parse_splits(splits)
    if not force and store.exists(DATASET_KEY):
        raise InputError(f"{store.uri(DATASET_KEY)}: is there already: give --force to replace it and the indexes")
    shards = find_shards(store.list(), patterns, store.uri())
    counts = {split: len(keys) for split, keys in shards.items()}
    with SplitProgress(Console(stderr=True), counts, "shards read") as progress:
        info, skipped = write_index(
            store,
            shards,
            name=name or store.uri().rpartition("/")[2],
            classes=classes,
            palette=palette,
            members=members,
            ignore_index=ignore_index,
            source={"indexed": {split: patterns.get(split, f"{split}/") for split in shards}},
            runner=runner,
            progress=progress,
        )
    if as_json:
        described = {split: {**vars(found), "skipped": skipped[split]} for split, found in info.splits.items()}
        click.echo(json.dumps({"name": info.name, "uri": store.uri(), "digest": info.digest, "splits": described}))
    else:
        show(info, store, skipped, Console())


def parse_splits(splits: tuple[str, ...]) -> dict[str, str]:
    """NAME=PATTERN -> {name: pattern}. Raises InputError."""
    from pipeline.errors import InputError

    parsed: dict[str, str] = {}
    for split in splits:
        name, _, pattern = split.partition("=")
        if not name or not pattern:
            raise InputError(f"split: {split!r}: write NAME=PATTERN, such as train=train-*.tar")
        if name in parsed:
            raise InputError(f"split: {name!r} is there twice: give each split once")
        parsed[name] = pattern
    return parsed


def show(info: DatasetInfo, store: Store, skipped: dict[str, int], console: object) -> None:
    """What a person reads: a row per split, and what it costs that members of samples stand apart."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pipeline.shards import read_index

    assert isinstance(console, Console)
    table = Table(title=escape(f"{info.name}: indexed at {store.uri()}"), title_justify="left")
    for column in ("split", "samples", "shards", "bytes", "members skipped", "digest"):
        table.add_column(column, justify="left" if column in ("split", "digest") else "right")
    for name, split in info.splits.items():
        counts = (f"{count:,}" for count in (split.samples, split.shards, split.bytes, skipped[name]))
        table.add_row(name, *counts, split.digest[:12])
    console.print(table)
    for name, split in info.splits.items():
        ratio = int(read_index(store, name).length.sum()) / split.bytes
        if ratio > 1.5:
            console.print(
                f"{name}: members of samples stand apart, so that up to {ratio:.1f} times the shards' bytes are read "
                "in an epoch: write the shards again, each sample's members side by side, if that is too slow"
            )
