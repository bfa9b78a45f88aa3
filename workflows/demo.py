"""`encnet demo`: the whole story on the embedded stack.

Stack up, ContextScenes into S3, an FCN and an EncNet trained by submitted Ray jobs on two workers, both registered
and evaluated, compared honestly, the better one made champion.
"""

from __future__ import annotations

import datetime
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pipeline.errors import PipelineError

DATA = "s3://encnet/data/context-scenes"
RECIPE = "context_scenes_r18"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the two trained and evaluated models."""

    title: str
    run: str
    model_uri: str
    miou: float
    pix_acc: float
    ambiguous_miou: float
    """Over the classes whose looks several scenes share."""

    @property
    def version(self) -> tuple[str, str]:
        """Name and version in the registry."""
        name, _, version = self.model_uri.removeprefix("models:/").rpartition("/")
        return name, version


@click.command()
@click.option("--steps", default=0, help="Training steps of each model; default: the recipe's.")
def demo(steps: int) -> None:
    """The whole story on the embedded stack, in about three minutes.

    Can be interrupted and run again: what is up stays up, what is written is not written twice.
    """
    began = time.monotonic()
    from workflows.stack import addresses, bring_up

    _title(1, "the stack: object store, MLflow, Ray")
    parts = bring_up()
    _title(2, f"the data: ContextScenes as WebDataset shards in {DATA}")
    _prepare()
    stamp = f"{datetime.datetime.now():%m%d-%H%M%S}"
    _title(3, "an FCN, trained by a Ray job on two workers, registered and evaluated")
    fcn = _contend("FCN", ["--model.arch", "fcn"], f"demo-fcn-{stamp}", steps)
    _title(4, "an EncNet, likewise")
    encnet = _contend("EncNet", [], f"demo-encnet-{stamp}", steps)
    _title(5, "the better one becomes champion")
    champion = max(fcn, encnet, key=lambda contender: contender.miou)
    _promote(champion)
    _show([fcn, encnet], champion)
    click.echo(addresses(parts))
    click.echo(_what_to_look_at(champion, time.monotonic() - began))


def _title(number: int, text: str) -> None:
    click.secho(f"\n[{number}/5] {text}", err=True, bold=True)


def _prepare() -> None:
    from pipeline.datasets import Request, find_layout
    from pipeline.storage import open_store
    from workflows.prepare import prepare_dataset

    info, is_new = prepare_dataset(find_layout("context-scenes"), Request(), open_store(DATA))
    counts = ", ".join(f"{split.samples} {name}" for name, split in info.splits.items())
    click.echo(f"{'written' if is_new else 'there already'}: {counts}, {len(info.classes)} classes", err=True)


def _contend(title: str, options: list[str], name: str, steps: int) -> Contender:
    limit = ["--optim.max-steps", str(steps)] if steps else []
    trained = _job(["train", RECIPE, "--data", DATA, "--name", name, *options, *limit, "--json"])
    click.echo(f"  encnet evaluate {trained['model_uri']} --data {DATA} --split val", err=True)
    from pipeline.datasets.context_scenes import AMBIGUOUS_CLASSES
    from pipeline.evaluate import Protocol, evaluate

    scores = evaluate(trained["model_uri"], Protocol(data=DATA, split="val"))
    shared = [iou for name in AMBIGUOUS_CLASSES if not math.isnan(iou := scores.iou[name])]
    return Contender(
        title=title,
        run=name,
        model_uri=trained["model_uri"],
        miou=scores.miou,
        pix_acc=scores.pix_acc,
        ambiguous_miou=sum(shared) / len(shared) if shared else math.nan,
    )


def _job(verb: list[str]) -> dict[str, Any]:
    """Run a verb as a Ray job, show its log and return the JSON object it ends with."""
    from workflows import submit

    client = submit.connect()
    job_id = submit.submit_job(client, verb)
    results: list[str] = []

    def show(line: str) -> None:
        if line.startswith("{"):
            results.append(line)
        elif line.strip():
            click.echo(f"  {line}", err=True)

    click.echo(f"  encnet submit -- {' '.join(verb)}", err=True)
    code = submit.follow_job(client, job_id, show)
    if code or not results:
        raise PipelineError(f"job {job_id} ({' '.join(verb[:2])}) failed with exit code {code}: its log is above")
    result: dict[str, Any] = json.loads(results[-1])
    return result


def _promote(champion: Contender) -> None:
    from pipeline.champion import appoint

    name, version = champion.version
    appoint(name, version, why=f"{champion.title}, the better one of a demo")
    click.echo(f"{champion.title}: models:/{name}@champion is version {version} now", err=True)


def _show(contenders: list[Contender], champion: Contender) -> None:
    table = Table(title="ContextScenes, validation split, same data, same steps, two workers", title_justify="left")
    for heading in ("model", "mIoU %", "mIoU % where only\nthe scene tells", "pixAcc %", "run", "registered as"):
        table.add_column(heading, justify="right" if "%" in heading else "left", no_wrap=True)
    for one in contenders:
        scores = [f"{100 * score:.2f}" for score in (one.miou, one.ambiguous_miou, one.pix_acc)]
        mark = "  champion" if one is champion else ""
        table.add_row(one.title, *scores, one.run, one.model_uri + mark)
    console = Console()
    Console(width=max(console.width, 120)).print(table)


def _what_to_look_at(champion: Contender, seconds: float) -> str:
    name, _ = champion.version
    return (
        "\nWhat to look at: in the MLflow UI, experiment 'encnet', the two demo runs: their curves (loss, mIoU,\n"
        "IoU of each class), pictures (Artifacts, images: image, truth, prediction, errors) and system metrics;\n"
        f"under Models, {name} with its versions and aliases. In the Ray dashboard: the jobs and their logs.\n"
        "Next: 'encnet train --help' lists the recipes, 'encnet stack down' stops it all.\n"
        f"Done in {seconds:.0f} s."
    )
