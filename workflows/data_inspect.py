"""What is in a data set: counts, classes, sizes, and a picture of some samples.

encnet data inspect s3://bucket/camvid --split val --samples 9
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.shards import DatasetInfo, ShardIndex
    from pipeline.storage import Store


@click.command()
@click.argument("uri", metavar="URI")
@click.option("--split", metavar="NAME", help="Whose samples the picture shows.  [default: the first]")
@click.option("--samples", default=12, show_default=True, type=click.IntRange(1, 200), help="How many it shows.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which it shows.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Of the picture, a PNG; replaced if it is there.  [default: NAME-SPLIT.png, here]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def inspect(uri: str, split: str | None, samples: int, seed: int, output: Path | None, as_json: bool) -> None:
    """Show counts, pixels of each class and image sizes of the data set at URI, and draw samples with their labels."""
    from pipeline.shards import read_dataset, read_index
    from pipeline.storage import open_store

    store = open_store(uri)
    info = read_dataset(store)
    chosen = split or next(iter(info.splits))
    indexes = {name: read_index(store, name, info) for name in {**info.splits, chosen: None}}
    path = output or Path(re.sub(r"[^\w.-]", "-", f"{info.name}-{chosen}") + ".png")
    draw(store, info, indexes[chosen], path, samples, seed)
    if as_json:
        click.echo(json.dumps(describe(info, indexes, store, path)))
    else:
        show(info, indexes, store)
        click.echo(f"{path}: {min(samples, len(indexes[chosen]))} samples of {chosen!r} with their labels")


def draw(store: Store, info: DatasetInfo, index: ShardIndex, path: Path, count: int, seed: int) -> None:
    """Write the contact sheet of `count` samples drawn at random. Raises InputError when it can't be written."""
    import cv2
    import numpy as np

    from pipeline.contact_sheet import contact_sheet
    from pipeline.errors import InputError
    from pipeline.sample_reader import SampleReader

    reader = SampleReader(store, index)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:count]).tolist()
    pictures = ((index.keys[one], *reader.load(one)) for one in chosen)
    sheet = contact_sheet(pictures, info.classes, info.palette)
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        path.write_bytes(encoded)
    except OSError as error:
        raise InputError(f"output: {path}: can't be written ({error.strerror}): give a file in a folder") from error


def describe(info: DatasetInfo, indexes: dict[str, ShardIndex], store: Store, path: Path) -> dict[str, Any]:
    """What a script reads."""
    splits = {
        name: {
            **{field: getattr(split, field) for field in ("samples", "shards", "bytes", "digest")},
            "class_pixels": dict(zip(info.classes, split.class_pixels, strict=True)),
            "sizes": sizes(indexes[name]),
        }
        for name, split in info.splits.items()
    }
    return {"name": info.name, "uri": store.uri(), "digest": info.digest, "splits": splits, "picture": str(path)}


def sizes(index: ShardIndex) -> dict[str, list[int]]:
    """Smallest, median and largest of width, height and of a sample's bytes."""
    import numpy as np

    columns: dict[str, np.ndarray] = {"width": index.width, "height": index.height, "bytes": index.length}
    return {name: [int(value) for value in np.quantile(column, [0, 0.5, 1])] for name, column in columns.items()}


def show(info: DatasetInfo, indexes: dict[str, ShardIndex], store: Store) -> None:
    """What a person reads: a table of splits, and one of classes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=escape(f"{info.name} at {store.uri()}"), title_justify="left")
    for column in ("split", "samples", "shards", "bytes", "width", "height", "bytes a sample"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in info.splits.items():
        ranges = (f"{least:,}–{most:,}" for least, _, most in sizes(indexes[name]).values())
        table.add_row(name, f"{split.samples:,}", f"{split.shards:,}", f"{split.bytes:,}", *ranges)
    console.print(table)
    console.print(class_histogram(info))


def class_histogram(info: DatasetInfo) -> Any:
    """A table of the share that each class has of a split's labelled pixels, with a bar for the first split."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="labelled pixels, %", title_justify="left")
    table.add_column("class")
    for split in info.splits:
        table.add_column(split, justify="right")
    table.add_column(next(iter(info.splits)))
    shares = [
        [100 * pixels / max(1, sum(split.class_pixels)) for pixels in split.class_pixels]
        for split in info.splits.values()
    ]
    for place, name in enumerate(info.classes):
        of_class = [share[place] for share in shares]
        bar = "█" * round(30 * of_class[0] / max(*shares[0], 1e-9))
        table.add_row(escape(name), *(f"{share:.2f}" if share else "–" for share in of_class), bar)
    return table
