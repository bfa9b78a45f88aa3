"""`encnet evaluate MODEL`: a registered model on a split, distributed over Ray workers; two models compared.

encnet evaluate models:/encnet-camvid@candidate --data s3://encnet/data/camvid --against models:/encnet-camvid@champion
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from infra.local import settings
from workflows.scales import parse_scales, protocol_options

if TYPE_CHECKING:
    from pipeline.bootstrap import Difference
    from pipeline.evaluate import Evaluation


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="URI", help="The data set: s3://BUCKET/PREFIX or a folder.")
@click.option("--split", default="val", show_default=True, help="The split to evaluate on.")
@protocol_options
@click.option("--against", metavar="MODEL", help="Compare with this model, on the same images in the same way.")
@click.option("--num-workers", default=2, show_default=True, help="Number of Ray workers.")
@click.option("--batch-size", default=4, show_default=True, help="Images of one size evaluated together.")
@click.option("--experiment", default="encnet", show_default=True, help="The MLflow experiment.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
def evaluate(
    model: str,
    data: str,
    split: str,
    scales: str,
    flip: bool,
    crop_size: int,
    against: str | None,
    num_workers: int,
    batch_size: int,
    experiment: str,
    as_json: bool,
) -> None:
    """Evaluate MODEL on a split: each sample exactly once, the scores logged to the model version.

    \b
    encnet evaluate models:/encnet-camvid@candidate --data s3://encnet/data/camvid --split val
    encnet evaluate models:/encnet-camvid/7 --data s3://encnet/data/camvid --scales 0.75,1,1.25 --flip
    encnet evaluate models:/encnet-camvid@candidate --data s3://encnet/data/camvid \\
        --against models:/encnet-camvid@champion

    MODEL: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, or a folder with weights.safetensors.

    The run in MLflow has the scores, and under Artifacts report/index.html: classes, boundaries, confusion, calibration
    and the worst images. What was interrupted is gone on with by the same command, where $ENCNET_STORAGE is set.

    --against tells the difference in mIoU with its 95 % interval, by a paired bootstrap over the images, and adds it to
    the report. Models that were evaluated on this data in this way before are not evaluated again.
    """
    settings.require({"mlflow", "ray"})
    from pipeline import evaluate as evaluation

    protocol = evaluation.Protocol(
        data=data,
        split=split,
        scales=parse_scales(scales),
        flip=flip,
        crop_size=crop_size,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    other, difference = None, None
    if against is None:
        result = evaluation.evaluate(model, protocol, experiment)
    else:
        result, other, difference = evaluation.evaluate_against(model, against, protocol, experiment)
    tell(result, other, difference, f"{data} ({split})", Console(stderr=as_json))
    if as_json:
        click.echo(json.dumps(as_plain(result, other, difference)))


def tell(
    result: Evaluation, other: Evaluation | None, difference: Difference | None, data: str, console: Console
) -> None:
    """Print the scores for people."""
    from pipeline.evaluation_report import describe_difference
    from pipeline.report import class_table

    columns = {"boundary F %": list(result.boundary_f.values())}
    if other is not None:
        columns["the other's IoU %"] = list(other.iou.values())
    console.print(f"{result.model_uri} on {data}", soft_wrap=True, markup=False)
    console.print(class_table(list(result.iou), list(result.iou.values()), columns))
    console.print(f"mIoU {100 * result.miou:.2f} %  pixAcc {100 * result.pix_acc:.2f} %  {result.num_images} images")
    speed = "" if result.latency_ms is None else f"  {result.latency_ms:.0f} ms an image"
    console.print(
        f"boundary F-score {100 * result.mean_boundary_f:.2f} %  calibration error {100 * result.ece:.2f} %{speed}"
    )
    if other is not None and difference is not None:
        over = f"{describe_difference(difference)} over {other.model_uri}"
        console.print(f"difference  {over}", soft_wrap=True, markup=False)
    for name, fault in result.checks.items():
        if fault:
            console.print(f"warning: {name}: {fault}", soft_wrap=True, markup=False)
    console.print(f"run  {result.run_url}", soft_wrap=True, markup=False)


def as_plain(result: Evaluation, other: Evaluation | None, difference: Difference | None) -> dict[str, Any]:
    """The result as JSON can hold it: None for NaN; `against` where there is another one."""
    told = _without_nan(asdict(result))
    if other is not None and difference is not None:
        named = {name: getattr(other, name) for name in ("model_uri", "miou", "run_id", "run_url")}
        told["against"] = _without_nan({**named, "difference": asdict(difference)})
    return told


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
