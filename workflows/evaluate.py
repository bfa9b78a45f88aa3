"""`encnet evaluate MODEL`: a registered model on a split, distributed over Ray workers."""

from __future__ import annotations

import json

import click
from rich.console import Console

from infra.local import settings
from workflows.scales import parse_scales, scales_option


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="URI", help="The data set: s3://BUCKET/PREFIX or a folder.")
@click.option("--split", default="val", show_default=True, help="The split to evaluate on.")
@scales_option
@click.option("--flip", is_flag=True, help="Average with the mirrored image.")
@click.option("--crop-size", default=0, show_default=True, help="Side of the sliding window; 0: whole images.")
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
    num_workers: int,
    batch_size: int,
    experiment: str,
    as_json: bool,
) -> None:
    """Evaluate MODEL on a split: each sample exactly once, the scores logged to the model version.

    \b
    encnet evaluate models:/encnet-camvid@candidate --data s3://encnet/data/camvid --split val

    MODEL: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, or a folder with weights.safetensors.
    """
    settings.require({"mlflow", "ray"})
    from pipeline import evaluate as evaluation
    from pipeline.report import class_table

    protocol = evaluation.Protocol(
        data=data,
        split=split,
        scales=parse_scales(scales),
        flip=flip,
        crop_size=crop_size,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    result = evaluation.evaluate(model, protocol, experiment)
    console = Console(stderr=as_json)
    console.print(f"{result.model_uri} on {data} ({split})", soft_wrap=True)
    console.print(class_table(list(result.iou), list(result.iou.values())))
    console.print(f"mIoU {100 * result.miou:.2f} %  pixAcc {100 * result.pix_acc:.2f} %  {result.num_images} images")
    console.print(f"run  {result.run_url}", soft_wrap=True)
    if as_json:
        plain = {name: None if iou != iou else iou for name, iou in result.iou.items()}
        click.echo(
            json.dumps(
                {
                    "model_uri": result.model_uri,
                    "miou": result.miou,
                    "pix_acc": result.pix_acc,
                    "iou": plain,
                    "num_images": result.num_images,
                    "run_url": result.run_url,
                }
            )
        )
