"""`encnet models show`: what a model is made of and costs, and what the registry knows of it.

encnet models show mmseg --backbone resnet101 --size 512x1024
encnet models show models:/encnet-camvid@champion
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

import encnet
from encnet.config import PRESETS
from infra.local import settings
from pipeline.config import RunConfig, field_help
from pipeline.errors import InputError, did_you_mean
from workflows.recipes import RECIPES

if TYPE_CHECKING:
    from pipeline.promotion_trail import Entry
    from pipeline.registry import Version

MAX_HISTORY = 8
"""So many of the latest moves of the champion are shown."""


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of a model's config, --num-classes for num_classes, help from its docstring."""
    for path, text in reversed(field_help().items()):
        if path.startswith("model."):
            name = path.removeprefix("model.")
            command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text)(command)
    return command


@click.command()
@click.argument("model")
@click.option("--size", default="512x512", show_default=True, metavar="HxW", help="Height and width of the image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@shape_options
def show(model: str, size: str, as_json: bool, **options: str | None) -> None:
    """Show what MODEL is made of, and costs.

    Its parameters and multiply-adds, part by part; of a registered one also where it comes from, its scores and
    digests, and who made what champion when and why.

    \b
    encnet models show mmseg
    encnet models show camvid_r18 --arch fcn --size 360x480
    encnet models show models:/encnet-camvid@champion

    MODEL: a preset (paper, pytorch-encoding, mmseg), a recipe, models:/NAME@ALIAS, models:/NAME/VERSION,
    runs:/RUN/model, a folder with weights.safetensors, or such a file. Of a preset or recipe any field can be
    changed: the options below are all of them.
    """
    image = parse_size(size)
    config = find_config(model, {name: value for name, value in options.items() if value is not None})
    try:
        cost = encnet.model_cost(config, image)
    except ValueError as error:
        raise InputError(f"size: {error}") from None
    version, trail = registered(model)
    if as_json:
        totals = {"inference": asdict(cost.inference), "training": asdict(cost.training)}
        known = {"version": as_plain(version), "history": [entry_as_plain(entry) for entry in trail]} if version else {}
        click.echo(json.dumps({"model": model, "config": asdict(config), **asdict(cost), **totals, **known}))
        return
    console = Console()
    console.print(cost_table(model, config, cost))
    if version:
        console.print(facts_table(version))
        for entry in trail:
            console.print(f"{entry.at:%Y-%m-%d %H:%M} UTC  {entry.text}", markup=False, highlight=False, soft_wrap=True)


def parse_size(text: str) -> tuple[int, int]:
    """Return the height and width of a text such as 512x1024. Raises InputError."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if match is None:
        raise InputError(f"size: {text!r}: write HEIGHTxWIDTH, e.g. 512x1024")
    return int(match[1]), int(match[2])


def find_config(model: str, changes: Mapping[str, str]) -> encnet.ModelConfig:
    """Return the config of a preset, a recipe or a stored model; of the first two with fields changed.

    Raises InputError.
    """
    if model in PRESETS:
        config = encnet.ModelConfig.preset(model)  # type: ignore[arg-type]
    elif model in RECIPES:
        config = RECIPES[model]().model
    elif "/" not in model and not Path(model).exists():
        raise InputError(
            f"MODEL: {model!r}: no such preset, recipe, folder or file: {did_you_mean(model, [*PRESETS, *RECIPES])}"
        )
    elif changes:
        raise InputError(
            f"{next(iter(changes))}: the shape of a stored model is fixed: change a preset's or a recipe's"
        )
    else:
        return stored_config(model)
    changed = RunConfig(model=config).override({f"model.{name}": value for name, value in changes.items()})
    return changed.model


def stored_config(uri: str) -> encnet.ModelConfig:
    """The config in the file behind a MODEL of `pipeline.registry.resolve_model`. Raises InputError."""
    if uri.startswith(("models:/", "runs:/")):
        settings.require({"mlflow"})
    from pipeline.registry import resolve_model  # MLflow takes seconds to import

    with resolve_model(uri) as resolved:
        try:
            return encnet.read_config(resolved.weights)
        except ValueError as error:
            raise InputError(f"MODEL: {error}") from None


def registered(model: str) -> tuple[Version | None, Sequence[Entry]]:
    """What the registry knows of a version, and the history of its model's champions; None for another MODEL."""
    if not model.startswith("models:/"):
        return None, ()
    from pipeline.promotion_trail import read_trail
    from pipeline.registry import find_version

    version = find_version(model)
    return version, read_trail(version.name, MAX_HISTORY)


def as_plain(version: Version) -> dict[str, Any]:
    """A version for JSON."""
    return {
        "name": version.name,
        "version": version.number,
        "model_uri": version.uri,
        "aliases": list(version.aliases),
        "miou": version.miou,
        "created": version.created.isoformat(),
        "run_id": version.run_id,
        "tags": dict(version.tags),
    }


def entry_as_plain(entry: Entry) -> dict[str, Any]:
    """An entry of the history for JSON."""
    return {**asdict(entry), "at": entry.at.isoformat()}


def facts_table(version: Version) -> Table:
    """What the registry knows of a version."""
    table = Table(title=version.uri, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "aliases": ", ".join(version.aliases) or "none",
        "registered": f"{version.created:%Y-%m-%d %H:%M} UTC",
        "mIoU on val": "not measured" if version.miou is None else f"{100 * version.miou:.2f} %",
        **{name: version.tags[name] for name in _FACTS if name in version.tags},
        "MLflow run": version.run_id,
    }
    for row in rows.items():
        table.add_row(*row)
    return table


_FACTS = (
    "data set", "data set digest", "weights sha256", "network", "recipe", "run", "imported from", "git commit",
    "licence", "promoted", "refused", "appointed", "rolled back",
)  # fmt: skip


def cost_table(model: str, config: encnet.ModelConfig, cost: encnet.ModelCost) -> Table:
    """A table of the parts that there are, and of what inference and training need."""
    height, width = cost.size
    table = Table(title=f"{model}: {config.arch} {config.backbone}, {config.num_classes} classes, {height}x{width}")
    for column, justify in (("part", "left"), ("parameters", "right"), ("multiply-adds", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name in ("backbone", "jpu", "head", "context", "inference", "se", "aux_head", "training"):
        part: encnet.Cost = getattr(cost, name)
        if part.parameters:
            row = (_ROWS[name], f"{part.parameters:,}", _rounded(part.multiply_adds))
            table.add_row(*row, style="bold" if name in ("inference", "training") else None)
    return table


_ROWS = {
    "backbone": "backbone",
    "jpu": "joint pyramid upsampling",
    "head": "head",
    "context": "  of which context module",
    "inference": "inference",
    "se": "SE branch",
    "aux_head": "auxiliary head",
    "training": "training (forward)",
}


def _rounded(count: int) -> str:
    factor, unit = next((pair for pair in ((1e9, "G"), (1e6, "M")) if count >= pair[0]), (1e3, "k"))
    return f"{count / factor:,.1f} {unit}"
