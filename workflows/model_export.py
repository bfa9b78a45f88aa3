"""`encnet models export`: a model as one file that runs without this code.

encnet models export models:/encnet-camvid@champion --format onnx
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

import encnet
from infra.local import settings
from pipeline.errors import InputError
from pipeline.export import Format

if TYPE_CHECKING:
    from pipeline.registry import ResolvedModel


@click.command()
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
    with _stored_model(model) as (network, resolved):
        output = output or Path(f"{_file_name(resolved)}.{kind}")
        export_model(network, output, kind, describe(network.config, resolved.uri, dataset), replace=force)
    click.echo(f"{output}: {resolved.uri} as {kind}, {output.stat().st_size / 1e6:.1f} MB")
    click.echo("images  (batch, 3, height, width) float32: RGB, (pixel / 255 - mean) / std")
    click.echo(f"        mean {encnet.IMAGENET_MEAN}, std {encnet.IMAGENET_STD}")
    click.echo(f"logits  (batch, {network.config.num_classes}, height, width) float32")


@contextmanager
def _stored_model(uri: str) -> Iterator[tuple[encnet.SegmentationNet, ResolvedModel]]:
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


def _file_name(resolved: ResolvedModel) -> str:
    if resolved.name:
        return f"{resolved.name}-v{resolved.version}"
    return Path(resolved.uri).resolve().name.removesuffix(".safetensors")
