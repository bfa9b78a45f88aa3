"""`encnet models promote` and `encnet models rollback`: who is champion.

encnet models promote models:/encnet-camvid@candidate --why "trained on the new frames"
encnet models rollback encnet-camvid --why "flickers at night"
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from infra.local import settings
from workflows.gate_options import gate_options, read_gates
from workflows.scales import parse_scales, protocol_options

if TYPE_CHECKING:
    from pipeline.promotion import Judgement, Promotion
    from pipeline.verdicts import Verdict


@click.command()
@click.argument("model")
@click.option("--data", default="", metavar="URI",
              help="The data set that both are measured on.  [default: the one that MODEL was trained on]")  # fmt: skip
@click.option("--split", default="val", show_default=True, help="The split that both are measured on.")
@protocol_options
@gate_options
@click.option("--why", default="", metavar="TEXT", help="A reason, for the trail.")
@click.option("--yes", is_flag=True, help="Do not ask before the champion is moved.")
@click.option("--dry-run", is_flag=True, help="Only judge: move nothing, and leave no entry in the trail.")
@click.option("--num-workers", default=2, show_default=True, help="Number of Ray workers, to evaluate.")
@click.option("--experiment", default="encnet", show_default=True, help="The MLflow experiment.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
def promote(
    model: str,
    data: str,
    split: str,
    scales: str,
    flip: bool,
    crop_size: int,
    why: str,
    yes: bool,
    dry_run: bool,
    num_workers: int,
    experiment: str,
    as_json: bool,
    **gates: Any,
) -> None:
    """Make MODEL the champion, if it is better.

    It has to pass the gates: better than the champion by more than noise, and not worse where it matters. Refused, this
    moves nothing, says which gates failed by how much, and exits with 1.

    \b
    encnet models promote models:/encnet-camvid@candidate
    encnet models promote models:/encnet-camvid@candidate --data s3://encnet/data/camvid --dry-run
    encnet models promote models:/encnet-camvid/7 --min-gain 0.005 --max-class-drop 0.02 --why "new frames" --yes

    MODEL: models:/NAME@ALIAS or models:/NAME/VERSION. Both it and the champion are evaluated on the data, in the same
    way; what was evaluated so before is not evaluated again. The first champion of a model needs a score only, within
    the bounds that are set.

    The champion before is kept as `previous`: see `encnet models rollback`. Who did it, when, why and on what grounds
    is an MLflow run, and in `encnet models show`. Of two promotions at once one wins, the other is to be judged again.
    """
    bounds = read_gates(gates)
    settings.require({"mlflow"})
    from pipeline import promotion
    from pipeline.evaluation_plan import Protocol
    from pipeline.stop_signals import StopSignals

    protocol = Protocol(
        data=data or find_data(model),
        split=split,
        scales=parse_scales(scales),
        flip=flip,
        crop_size=crop_size,
        num_workers=num_workers,
    )
    console = Console(stderr=as_json)

    def confirm(judgement: Judgement) -> bool:
        console.print(verdict_table(judgement.verdicts))
        question = f"Make {judgement.candidate.uri} the champion?"
        return yes or not sys.stdin.isatty() or click.confirm(question, default=True, err=as_json)

    with StopSignals():
        result = promotion.promote(
            model, protocol, bounds, why=why, experiment=experiment, confirm=confirm, dry_run=dry_run
        )
    if result.failed or dry_run:
        console.print(verdict_table(result.verdicts))
    console.print(summary(result), markup=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(as_plain(result)))
    promotion.require_promoted(result)


@click.command()
@click.argument("name")
@click.option("--why", default="", metavar="TEXT", help="A reason, for the trail.")
@click.option("--experiment", default="encnet", show_default=True, help="The MLflow experiment.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
def rollback(name: str, why: str, experiment: str, as_json: bool) -> None:
    """Go back to the champion before this one.

    At once, and without gates.

    \b
    encnet models rollback encnet-camvid --why "flickers at night"

    There is no `previous` after that: done twice, it does not bring the bad one back. Which versions there are tells
    `encnet models list NAME`, and `encnet models promote` makes any of them champion that passes.
    """
    settings.require({"mlflow"})
    from pipeline.champion import rollback as roll_back

    entry = roll_back(name, why, experiment)
    click.echo(f"models:/{name}@champion is version {entry.version} again, after {entry.before}", err=as_json)
    click.echo(f"run  {entry.run_url}", err=as_json)
    if as_json:
        told = {"name": name, "version": entry.version, "before": entry.before, "run_url": entry.run_url}
        click.echo(json.dumps(told))


def find_data(model: str) -> str:
    """The data set that a version was trained on. Raises InputError where that is not known."""
    from pipeline.errors import InputError
    from pipeline.registry import find_version, training_data

    version = find_version(model)
    uri = training_data(version)
    if not uri:
        raise InputError(f"data: not known of {version.uri}: name the data set to measure it on with --data")
    return uri


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """What each gate says."""
    from pipeline.promotion_trail import verdict_columns

    columns = verdict_columns(verdicts)
    table = Table(*columns)
    for verdict, row in zip(verdicts, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*row, style=None if verdict.passed else "bold red")
    return table


def summary(result: Promotion) -> str:
    """What came of it, in one line."""
    uri = f"models:/{result.name}/{result.version}"
    if result.promoted and not result.moved:
        return f"{uri} is the champion already"
    score = "" if result.miou is None else f" (mIoU {100 * result.miou:.2f} %)"
    before = "no champion" if not result.previous else f"version {result.previous}"
    if result.champion_miou is not None:
        before += f" ({100 * result.champion_miou:.2f} %)"
    run = f"; run  {result.run_url}" if result.run_url else ""
    if result.moved:
        return f"{uri}{score} is the champion now, after {before}{run}"
    reason = "does not pass the gates" if result.failed else "passes the gates, and was not made champion"
    return f"{uri}{score} against {before}: {reason}{run}"


def as_plain(result: Promotion) -> dict[str, Any]:
    """The result for JSON."""
    return {
        "model_uri": f"models:/{result.name}/{result.version}",
        "promoted": result.promoted,
        "moved": result.moved,
        "previous": result.previous,
        "miou": _finite(result.miou),
        "champion_miou": _finite(result.champion_miou),
        "verdicts": [{name: _finite(value) for name, value in asdict(verdict).items()} for verdict in result.verdicts],
        "run_url": result.run_url,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
