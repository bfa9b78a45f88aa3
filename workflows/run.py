"""`encnet run RECIPE`: from the data to a champion: prepare, train, evaluate, gate, promote.

encnet run camvid_r18 --source ~/camvid
encnet run camvid_r18 --source ~/camvid --dry-run
encnet run camvid_r18 --from evaluate
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.local import settings
from pipeline.errors import InputError, Interrupted, PipelineError, did_you_mean
from pipeline.gates import GatesConfig
from workflows.gate_options import gate_options, read_gates
from workflows.scales import parse_scales, scales_option
from workflows.train import changed_fields, field_options, recipe_config, recipe_list

if TYPE_CHECKING:
    from pipeline.chain import Data, Outcome
    from pipeline.chain_plan import Decision
    from pipeline.config import RunConfig
    from pipeline.shards import DatasetInfo

LAYOUTS = {
    "context_scenes_r18": "context-scenes",
    "camvid_r18": "camvid",
    "camvid_r50": "camvid",
    "pcontext_r50": "pascal-context-59",
    "pcontext_r101": "pascal-context-59",
    "ade20k_r50": "ade20k",
    "ade20k_r101": "ade20k",
    "voc2012_r101_coco": "coco-stuff",
    "voc2012_r101_aug": "voc2012-aug",
    "voc2012_r101": "voc2012",
    "cityscapes_r50": "cityscapes",
    "cityscapes_r101": "cityscapes",
}
"""Recipe -> the layout of the data set that it is meant for."""
_GENERATED = ("context-scenes",)
"""Layouts that need no --source."""
_GATES = tuple(field.name for field in fields(GatesConfig))
_STEPS = ("prepare", "train", "evaluate", "gate", "promote")
_COLOURS = {True: "cyan", False: None}


@click.command(epilog=recipe_list())
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--data", metavar="URI", help="Where the data set is, or is to be.  [default: $ENCNET_STORAGE/data/LAYOUT]"
)
@click.option("--source", type=click.Path(path_type=Path), help="The data set's folder, if it has yet to be prepared.")
@click.option("--layout", help="How --source is laid out.  [default: the recipe's data set's]")
@click.option("--from", "start", type=click.Choice(_STEPS), help="Do this step and those after it, done or not.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and why, and stop.")
@click.option("--why", default="", metavar="TEXT", help="A reason, for the trail of promotions.")
@scales_option
@click.option("--flip", is_flag=True, help="Evaluate with the mirrored image averaged in.")
@click.option("--crop-size", default=0, show_default=True, help="Evaluate by a sliding window of this side; 0: whole.")
@click.option("--num-workers", metavar="N|MIN:MAX", help="Number of Ray Train workers, or the fewest and the most.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
@gate_options
@field_options
def run(
    recipe: str,
    source: Path | None,
    layout: str | None,
    start: str | None,
    dry_run: bool,
    why: str,
    scales: str,
    flip: bool,
    crop_size: int,
    as_json: bool,
    **options: str | None,
) -> None:
    """Bring RECIPE from its data to a champion: prepare, train, evaluate, gate, promote.

    \b
    encnet run context_scenes_r18                        generated data: nothing else is needed
    encnet run camvid_r18 --source ~/camvid --dry-run    what would be done, and why
    encnet run camvid_r18 --source ~/camvid --why "first baseline"
    encnet run camvid_r18 --optim.epochs 50              another run, judged against that champion
    encnet run camvid_r18 --from train                   train again, although it was done

    A step is skipped when it was done with the same inputs: the data set's digest, the recipe's fields, the model, the
    protocol, the gates. What broke off goes on where it was when the same is asked for again. A change of the code
    alone makes nothing be done again: say --from.

    The champion is replaced only by a model that is better by more than noise, and as the gates ask for (--min-gain,
    --max-class-drop, ...); else the exit code is 1, and the model stays `candidate`. All of it is one run in MLflow,
    with those of the steps below it.
    """
    gates = read_gates({name: value for name, value in options.items() if name in _GATES})
    rest = {name: value for name, value in options.items() if name not in _GATES}
    config = recipe_config(recipe, changed_fields(rest))
    settings.require({"mlflow"} if dry_run else {"mlflow", "ray"})
    from pipeline.chain import plan_chain, run_chain
    from pipeline.chain_plan import Asked, describe
    from pipeline.evaluation_plan import Protocol
    from pipeline.preconditions import find_storage

    chosen = find_layout_name(recipe, layout)
    config = replace(config, storage=find_storage(config.storage))
    if not config.data.uri:
        config = config.override({"data.uri": f"{config.storage.rstrip('/')}/data/{chosen}"})
    if config.data.uri.startswith("s3://"):
        settings.require({"s3"})
    protocol = Protocol(
        data=config.data.uri,
        split=config.data.val_split,
        scales=parse_scales(scales),
        flip=flip,
        crop_size=crop_size,
        num_workers=config.workers.num,
    )
    asked = Asked(config=config, protocol=protocol, gates=gates)
    data = open_data(config, chosen, source, is_forced=start == "prepare")
    if dry_run:
        decisions = plan_chain(asked, data, start)  # type: ignore[arg-type]  # click has seen to it
        for decision in decisions:
            show(decision, would=True)
        if as_json:
            click.echo(json.dumps({"steps": describe(decisions)}))
        return
    try:
        outcome = run_chain(asked, data, start=start, why=why or f"encnet run {recipe}", tell=show)  # type: ignore[arg-type]
    except Interrupted as stopped:
        raise Interrupted(stopped.args[0], f"{stopped}; the same encnet run goes on with all of it") from None
    end(outcome, as_json=as_json)


def find_layout_name(recipe: str, layout: str | None) -> str:
    """The layout that was given, or the one of the recipe's data set. Raises InputError."""
    from pipeline.datasets import LAYOUTS as KNOWN

    chosen = layout or LAYOUTS[recipe]
    if chosen not in KNOWN:
        raise InputError(f"layout: {chosen!r} is not known: {did_you_mean(chosen, KNOWN)}")
    return chosen


def open_data(config: RunConfig, layout: str, source: Path | None, *, is_forced: bool) -> Data:
    """The data set as it is, and how it is prepared; `is_forced`: even where it is there.

    Raises InputError where another one is there than `source` holds, or it has to be prepared and there is no source.
    """
    from pipeline.chain import Data
    from pipeline.datasets import Request, find_layout
    from pipeline.shards import DATASET_KEY, read_dataset
    from pipeline.storage import open_store
    from workflows.prepare import prepare_dataset, source_arguments

    store, known = open_store(config.data.uri), find_layout(layout)
    there = read_dataset(store) if store.exists(DATASET_KEY) else None
    request = Request(source=source and source.absolute())
    if (there is None or is_forced) and source is None and layout not in _GENERATED:
        raise InputError(
            f"source: missing, to prepare {config.data.uri} from: give --source, the folder of {layout}, or with "
            "--data the URI of a data set that is there"
        )
    if there and source and not is_forced:
        arguments = source_arguments(known, known.open(request))
        if there.source != arguments:
            raise InputError(
                f"data: {config.data.uri} holds another data set, prepared with {dict(there.source)}: give another "
                "--data, leave --source out to use what is there, or replace it with --from prepare"
            )

    def prepare(force: bool) -> DatasetInfo:
        dataset, _ = prepare_dataset(known, request, store, force=force)
        return dataset

    return Data(there=there, prepare=prepare)


def show(decision: Decision, *, would: bool = False) -> None:
    """A line for a step, on stderr; in a dry run on stdout."""
    place = f"[{_STEPS.index(decision.step) + 1}/{len(_STEPS)}]"
    action = click.style(f"{'run' if decision.does else 'skip':<5}", fg=_COLOURS[decision.does], bold=decision.does)
    click.echo(f"{place} {decision.step:<9} {action} {decision.reason}", err=not would)


def end(outcome: Outcome, *, as_json: bool) -> None:
    """Tell the result. Raises PipelineError for a refusal."""
    from pipeline.chain_plan import describe

    for step, result in outcome.results.items():
        click.echo(f"{step:<9} {result.get('text', '')}", err=True)
    click.echo(f"run       {outcome.run_url}", err=True)
    if as_json:
        click.echo(json.dumps(as_object(outcome) | {"steps": describe(outcome.decisions)}))
    if outcome.refusal:
        model = outcome.results["train"]["model_uri"]
        raise PipelineError(f"{model} is not promoted: {outcome.refusal}")


def as_object(outcome: Outcome) -> dict[str, Any]:
    """What a script reads."""
    results = outcome.results
    return {
        "run_id": outcome.run_id,
        "run_url": outcome.run_url,
        "model_uri": results["train"]["model_uri"],
        "miou": float(results["evaluate"]["miou"]),
        "passed": not outcome.refusal,
        "promoted": "promote" in results,
        "refusal": outcome.refusal,
    }
