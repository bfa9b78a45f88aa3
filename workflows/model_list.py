"""`encnet models list`: the registered models and their versions.

encnet models list
encnet models list encnet-camvid --json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from infra.local import settings
from workflows.model_show import as_plain

if TYPE_CHECKING:
    from pipeline.registry import Version

LEAST_WIDTH = 120


@click.command("list")
@click.argument("name", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def list_(name: str, as_json: bool) -> None:
    """List registered models and versions.

    Of NAME, or of all: aliases, score, data set, when it was registered, and from which run.

    \b
    encnet models list
    encnet models list encnet-camvid
    encnet models list encnet-camvid --json | jq '.versions[0].model_uri'

    mIoU is that of the last evaluation on the split val, else that of validation in training.
    """
    settings.require({"mlflow"})
    from pipeline.registry import list_versions

    versions = list_versions(name)
    if as_json:
        click.echo(json.dumps({"versions": [as_plain(version) for version in versions]}))
    elif versions:
        console = Console()
        Console(width=max(console.width, LEAST_WIDTH)).print(versions_table(versions))
    else:
        click.echo("no models are registered yet: 'encnet train RECIPE' registers one, 'encnet models import FILE' too")


def versions_table(versions: Sequence[Version]) -> Table:
    """A row a version; the names of models once each."""
    table = Table()
    for heading in ("model", "version", "aliases", "mIoU %", "data set", "registered (UTC)", "from"):
        table.add_column(heading, justify="right" if heading in ("version", "mIoU %") else "left")
    before = ""
    for version in versions:
        if before and version.name != before:
            table.add_section()
        table.add_row(
            version.name if version.name != before else "",
            version.number,
            ", ".join(version.aliases),
            "" if version.miou is None else f"{100 * version.miou:.2f}",
            version.tags.get("data set", ""),
            f"{version.created:%Y-%m-%d %H:%M}",
            version.tags.get("run") or version.tags.get("imported from", ""),
            style="bold" if "champion" in version.aliases else None,
        )
        before = version.name
    return table
