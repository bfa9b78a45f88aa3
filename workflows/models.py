"""`encnet models`: what models are and cost, and files of them for other programs.

encnet models show mmseg --backbone resnet101 --size 512x1024
encnet models export models:/encnet-camvid@champion --format onnx
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console
from rich.table import Table

import encnet
from encnet.config import PRESETS
from infra.local import settings
from pipeline.config import RunConfig, field_help
from pipeline.errors import InputError, did_you_mean
from pipeline.export import Format
from workflows.recipes import RECIPES

if TYPE_CHECKING:
    from pipeline.registry import ResolvedModel


@click.group()
def models() -> None:
    """Models: what they are and cost, and files of them for other programs."""


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of a model's config, --num-classes for num_classes, help from its docstring."""
    for path, text in reversed(field_help().items()):
        if path.startswith("model."):
            name = path.removeprefix("model.")
            command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text)(command)
    return command


@models.command()
@click.argument("model")
@click.option("--size", default="512x512", show_default=True, metavar="HxW", help="Height and width of the image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@shape_options
def show(model: str, size: str, as_json: bool, **options: str | None) -> None:
    """Show the parameters and multiply-adds of MODEL, part by part.

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
    if as_json:
        totals = {"inference": asdict(cost.inference), "training": asdict(cost.training)}
        click.echo(json.dumps({"model": model, "config": asdict(config), **asdict(cost), **totals}))
    else:
        Console().print(cost_table(model, config, cost))


@models.command()
@click.argument("model")
@click.option("--format", "kind", type=click.Choice(get_args(Format)), default="onnx", show_default=True,
              help="onnx runs in onnxruntime and others; pt2 is torch.export's.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE",
              help="The file to write.  [default: named after MODEL, in this folder]")  # fmt: skip
@click.option("--data", metavar="URI", help="Write the class names and palette of this data set into the file too.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def export(model: str, kind: Format, output: Path | None, data: str | None, force: bool) -> None:
    """Write MODEL to one file that runs without this code.

    It takes images of any number and size, normalised, and gives logits of the same size.

    \b
    encnet models export models:/encnet-camvid@champion --data s3://encnet/data/camvid
    encnet models export models:/encnet-camvid/3 --format pt2 --output camvid.pt2

    MODEL: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, a folder with weights.safetensors, or such
    a file. The metadata of what is written says how to normalise images.
    """
    from pipeline.export import describe, export_model
    from pipeline.shards import read_dataset
    from pipeline.storage import open_store

    dataset = read_dataset(open_store(data)) if data else None
    with stored_model(model) as (network, resolved):
        output = output or Path(f"{_file_name(resolved)}.{kind}")
        export_model(network, output, kind, describe(network.config, resolved.uri, dataset), replace=force)
    click.echo(f"{output}: {resolved.uri} as {kind}, {output.stat().st_size / 1e6:.1f} MB")
    click.echo("images  (batch, 3, height, width) float32: RGB, (pixel / 255 - mean) / std")
    click.echo(f"        mean {encnet.IMAGENET_MEAN}, std {encnet.IMAGENET_STD}")
    click.echo(f"logits  (batch, {network.config.num_classes}, height, width) float32")


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
        with stored_model(model) as (network, _):
            return network.config
    changed = RunConfig(model=config).override({f"model.{name}": value for name, value in changes.items()})
    return changed.model


@contextmanager
def stored_model(uri: str) -> Iterator[tuple[encnet.SegmentationNet, ResolvedModel]]:
    """Load the model behind a MODEL of `pipeline.registry.resolve_model`. Raises InputError."""
    if uri.startswith(("models:/", "runs:/")):
        settings.require({"mlflow"})
    from pipeline.registry import resolve_model  # MLflow takes seconds to import

    with resolve_model(uri) as resolved:
        try:
            network, _ = encnet.load_model(resolved.weights)
        except ValueError as error:
            raise InputError(f"MODEL: {error}") from None
        yield network, resolved


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


def _file_name(resolved: ResolvedModel) -> str:
    if resolved.name:
        return f"{resolved.name}-v{resolved.version}"
    return Path(resolved.uri).resolve().name.removesuffix(".safetensors")
