"""`encnet models import` and `encnet models pull`: models in and out of the registry as files.

encnet models import encnet_r50-d8_512x512_80k_ade20k.pth --name encnet-ade20k --data s3://encnet/data/ade20k
encnet models pull models:/encnet-ade20k@candidate
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from encnet.layouts import LAYOUTS
from infra.local import settings

ANY_LAYOUT = ("auto", *dict.fromkeys(layout.name.lower() for layout in LAYOUTS))


@click.command("import")
@click.argument("file")
@click.option("--name", required=True, help="The registered model that it becomes a version of.")
@click.option("--data", required=True, metavar="URI", help="The data set whose classes it has, in the same order.")
@click.option("--layout", type=click.Choice(ANY_LAYOUT), default="auto", show_default=True,
              help="The code base that wrote it; auto: whichever its names show.")  # fmt: skip
@click.option("--licence", default="", help="Of the weights.  [default: what is known of their address]")
@click.option("--experiment", default="encnet", show_default=True, help="The MLflow experiment.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
def import_(file: str, name: str, data: str, layout: str, licence: str, experiment: str, as_json: bool) -> None:
    """Register a published checkpoint.

    It becomes a version of a model, with the alias candidate, to be evaluated and promoted like our own.

    \b
    encnet models import encnet_r50-d8_512x512_80k_ade20k.pth --name encnet-ade20k --data s3://encnet/data/ade20k
    encnet models import https://download.openmmlab.com/.../encnet_r101-d8.pth --name encnet-cityscapes \\
        --data s3://encnet/data/cityscapes --licence Apache-2.0
    encnet evaluate models:/encnet-ade20k@candidate --data s3://encnet/data/ade20k

    FILE: an EncNet or FCN by mmsegmentation, PyTorch-Encoding or torchvision (fcn_resnet50, fcn_resnet101), or our own
    weights.safetensors: a path, s3:// or https://. No code in it is run. What network it is, its tensors tell.

    The same weights are registered once, however often this is done.
    """
    settings.require({"mlflow"})
    from pipeline.imported_model import import_checkpoint

    done = import_checkpoint(file, name, data, layout=layout, licence=licence, experiment=experiment)
    network = done.network
    told = f"{network.arch}, {network.backbone}, {network.num_classes} classes, as {done.layout} names it"
    click.echo(f"{done.model_uri}: {told}; licence: {done.licence}", err=as_json)
    click.echo(f"run  {done.run_url}", err=as_json)
    click.echo(f"next: encnet evaluate {done.model_uri} --data {data}", err=as_json)
    if as_json:
        facts = {"model_uri": done.model_uri, "layout": done.layout, "licence": done.licence, "run_id": done.run_id}
        click.echo(json.dumps(facts))


@click.command()
@click.argument("model")
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace another version that was pulled to DEST.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
def pull(model: str, dest: Path | None, force: bool, as_json: bool) -> None:
    """Download MODEL into a folder.

    DEST gets weights.safetensors, config.json, model_card.md and origin.json.

    \b
    encnet models pull models:/encnet-camvid@champion
    encnet models pull models:/encnet-camvid/3 models/camvid --force
    encnet predict models/camvid frames/ labelled/

    MODEL: models:/NAME@ALIAS or models:/NAME/VERSION. DEST is NAME-vVERSION in this folder unless it is given. The
    weights are checked against the digest that was registered; the folder is there whole or not at all, and what is
    there whole is not downloaded again.
    """
    settings.require({"mlflow"})
    from pipeline.pulled_model import pull_model

    done = pull_model(model, dest, replace=force)
    state = "there already, and whole" if done.was_there else "pulled"
    click.echo(f"{done.folder}: {done.model_uri} {state}, weights sha256 {done.digest[:12]}", err=as_json)
    if as_json:
        click.echo(json.dumps({"model_uri": done.model_uri, "folder": str(done.folder), "sha256": done.digest}))
