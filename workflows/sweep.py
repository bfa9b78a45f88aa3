"""`encnet sweep SWEEP`: trials of a recipe with other values of some fields, the best one's model a candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from infra.local import settings
from pipeline.errors import InputError, did_you_mean
from pipeline.sweep_config import SweepConfig, typed
from pipeline.sweep_space import FORMS, parse_dimension
from workflows.recipes import RECIPES
from workflows.recipes.sweeps import SWEEPS
from workflows.train import changed_fields, field_options

if TYPE_CHECKING:
    from pipeline.sweep import SweepResult

_OWN = {
    "metric": "metric",
    "searcher": "searcher",
    "search_seed": "search_seed",
    "scheduler": "scheduler.kind",
    "grace": "scheduler.grace",
    "reduction": "scheduler.reduction",
    "trials": "budget.trials",
    "wall_s": "budget.wall_s",
    "concurrent": "budget.concurrent",
}
"""Option -> the sweep's own field that it sets."""
_MAY_CHANGE = "budget."
"""The sweep's own fields that a resumed one may have otherwise."""


def sweep_list() -> str:
    """The sweeps with the first line of their docstrings, for --help."""
    lines = [f"  {name:<22} {(sweep.__doc__ or '').splitlines()[0]}" for name, sweep in SWEEPS.items()]
    return "\b\nSweeps:\n" + "\n".join(lines)


def parse_space(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["optim.lr=loguniform:1e-4:1e-1"] as field -> dimension. Raises InputError."""
    found = {}
    for text in texts:
        path, equals, values = text.partition("=")
        if not (path and equals):
            raise InputError(f"space: {text!r}: write FIELD=VALUES, VALUES one of {FORMS}")
        found[path.replace("-", "_")] = parse_dimension(values)
    return found


def sweep_config(
    name: str, run: Mapping[str, str], space: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]
) -> SweepConfig:
    """The sweep called `name`, or one of the recipe of that name, with fields replaced. Raises InputError."""
    if name in SWEEPS:
        return SWEEPS[name]().changed(run=run, space=space, own=own)
    if name not in RECIPES:
        raise InputError(f"SWEEP: {name!r}: no such sweep or recipe: {did_you_mean(name, [*SWEEPS, *RECIPES])}")
    recipe = RECIPES[name]().override(run)
    if not space:
        raise InputError(f"space: empty: {name} is a recipe: name a field and its values, --space optim.lr={FORMS}")
    dimensions = {path: typed(recipe, path, dimension) for path, dimension in space.items()}
    bare = SweepConfig.from_dict({"sweep": name, "run": recipe.to_dict(), "space": dimensions})
    return bare.changed(run={}, space={}, own=own)


def resumed(name: str, run: dict[str, str], space: Mapping[str, Any], own: Mapping[str, Any]) -> SweepConfig:
    """The configuration to go on with the sweep called `name` with. Raises InputError."""
    from pipeline.preconditions import find_storage
    from pipeline.resume import resumed_config
    from pipeline.sweep_journal import stored_sweep

    stored = stored_sweep(find_storage(run.pop("storage", "")), name)
    fixed = [path for path in own if not path.startswith(_MAY_CHANGE)]
    if space or fixed:
        what = "space" if space else fixed[0]
        raise InputError(f"{what}: a sweep that is resumed keeps it: leave the option out, or start another sweep")
    changed = stored.changed(run={}, space={}, own=own)
    return replace(changed, run=resumed_config(stored.run, run))


@click.command(epilog=sweep_list())
@click.argument("sweep", required=False)
@click.option("--data", metavar="URI", help="The data set: s3://BUCKET/PREFIX or a folder. Same as --data.uri.")
@click.option("--num-workers", metavar="N|MIN:MAX", help="Number of Ray Train workers of each trial.")
@click.option("--space", metavar="FIELD=VALUES", multiple=True, help=f"A field that varies. VALUES: {FORMS}")
@click.option("--trials", type=int, help="The number of trials.")
@click.option("--searcher", metavar="KIND", help="[random | grid | tpe] How values are chosen; tpe is Optuna's.")
@click.option("--search-seed", type=int, help="Seeds the choice of values.")
@click.option("--scheduler", metavar="KIND", help="[fifo | asha | median] Which trials are ended early; fifo: none.")
@click.option("--grace", type=float, help="The share of its steps before which a trial is not ended.")
@click.option("--reduction", type=float, help="asha: the best 1 / REDUCTION of the trials pass each rung.")
@click.option("--metric", metavar="NAME", help="What is to be high: miou, or iou/CLASS.")
@click.option("--wall-s", type=float, help="No trial begins after so many seconds.")
@click.option("--concurrent", type=int, help="The most trials at once; default: as many as there is room for.")
@click.option("--resume", metavar="NAME", help="Go on with the sweep of that name.")
@click.option("--retry-failed", is_flag=True, help="With --resume: go on with the trials that failed, too.")
@click.option("--dry-run", is_flag=True, help="Show what the sweep would do, check all that it needs, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
@field_options
def sweep(
    sweep: str | None,
    space: tuple[str, ...],
    resume: str | None,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a recipe with several values of some fields, and make the best trial's model the candidate.

    \b
    encnet sweep context_scenes_lr --data s3://encnet/data/context-scenes
    encnet sweep camvid_lr --data s3://encnet/data/camvid --trials 50 --optim.epochs 20
    encnet sweep camvid_r18 --data s3://encnet/data/camvid --searcher grid --scheduler median \\
        --space optim.lr=loguniform:1e-3:1e-1:5 --space optim.kind=choice:sgd,adamw
    encnet sweep --resume camvid_lr-1123-081500

    SWEEP is one of the sweeps below, or a recipe with --space. Each trial is a run of its own workers, as `encnet
    train` does it; as many go on at once as the cluster has room for. A field given as an option is the same in all
    trials. --name is the sweep's.

    Ctrl-C or SIGTERM has the trials write checkpoints and leave. --resume goes on: trials that have ended are not
    repeated, others go on from their checkpoints. --trials may be raised then.
    """
    if not (sweep or resume):
        raise InputError(f"SWEEP: missing: name one of {', '.join(SWEEPS)}, a recipe, or a sweep with --resume")
    own = {path: value for name, path in _OWN.items() if (value := options.pop(name)) is not None}
    run = changed_fields(options)
    if name := run.pop("name", ""):
        own["name"] = name
    if resume:
        if sweep or name:
            raise InputError("SWEEP: a sweep that is resumed keeps its recipe and its name: leave them out")
        config = resumed(resume, run, parse_space(space), own)
    else:
        config = sweep_config(sweep or "", run, parse_space(space), own)
    if dry_run:
        from workflows.sweep_dry_run import show

        show(config, resume=bool(resume), as_json=as_json)
        return
    settings.require({"mlflow", "ray"})
    from pipeline import sweep as sweeps  # Ray and torch take seconds to import: not for a usage error

    config = sweeps.resolve(config)
    click.echo(f"sweep {config.name} on {config.run.data.uri}, {config.num_trials} trials", err=True)
    result = sweeps.run_sweep(config, resume=bool(resume), retries_failed=retry_failed)
    for line in report(result, config):
        click.echo(line, err=True)
    if as_json:
        click.echo(json.dumps(as_object(result)))


def report(result: SweepResult, config: SweepConfig) -> list[str]:
    """The result in lines for people."""
    from pipeline.sweep_tracking import summary
    from pipeline.sweep_view import values_text

    score = 100 * (result.best.score or 0.0)
    return [
        f"best {config.metric} {score:.2f} % in trial {result.best.number}: {values_text(result.best)}",
        f"trials {summary(result.trials)}",
        f"model  {result.model_uri}  (alias candidate)",
        f"sweep  {result.run_url}",
    ]


def as_object(result: SweepResult) -> dict[str, Any]:
    """The result as plain, JSON-ready values."""
    return {
        "name": result.name,
        "run_id": result.run_id,
        "run_url": result.run_url,
        "model_uri": result.model_uri,
        "miou": result.miou,
        "best": _trial(result.best),
        "trials": [_trial(one) for one in result.trials],
    }


def _trial(one: Any) -> dict[str, Any]:
    plain: dict[str, Any] = one.to_dict()
    return {**plain, "score": one.score, "step": one.step}
