"""`encnet train RECIPE`: train on the Ray cluster, track in MLflow, register the best weights as the candidate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click

from infra.local import settings
from pipeline.config import RunConfig, field_help
from pipeline.errors import InputError, did_you_mean
from workflows.recipes import RECIPES

_SHORT = {"data": "data.uri"}


def field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of a recipe, --optim.max-steps for optim.max_steps, help from its docstring."""
    for path, text in reversed(field_help().items()):
        if path != "recipe":
            flag = f"--{path.replace('_', '-')}"
            command = click.option(flag, path.replace(".", "__"), metavar="VALUE", help=text)(command)
    return command


def recipe_config(name: str, changes: dict[str, Any]) -> RunConfig:
    """The recipe called `name` with fields overridden. Raises InputError."""
    if name not in RECIPES:
        raise InputError(f"RECIPE: {name!r}: no such recipe: {did_you_mean(name, RECIPES)}")
    return RECIPES[name]().override(changes)


def recipe_list() -> str:
    """The recipes with the first line of their docstrings, for --help."""
    lines = [f"  {name:<22} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()]
    return "\b\nRecipes:\n" + "\n".join(lines)


def changed_fields(options: dict[str, str | None]) -> dict[str, str]:
    """The fields that the command line sets, by dotted name. --num-workers 1:4 sets two of them."""
    given = {name: value for name, value in options.items() if value is not None}
    workers: dict[str, str] = {}
    if number := given.pop("num_workers", None):
        least, _, most = number.rpartition(":")
        workers = {"workers.least": least or "0", "workers.num": most}
    return workers | {_SHORT.get(name, name.replace("__", ".")): value for name, value in given.items()}


def resumed(name: str, recipe: str | None, changes: dict[str, str]) -> RunConfig:
    """The configuration to go on with the run called `name` with. Raises InputError."""
    from pipeline.preconditions import find_storage
    from pipeline.resume import resumed_config, stored_config

    storage = find_storage(changes.pop("storage", ""))
    if changes.pop("name", name) != name:
        raise InputError("name: a run that is resumed keeps its name: leave --name out, or --resume")
    stored = stored_config(storage, name)
    if recipe and recipe != stored.recipe:
        raise InputError(f"RECIPE: {recipe!r}, but the run {name!r} is one of {stored.recipe!r}: leave it out")
    return resumed_config(replace(stored, storage=storage), changes)


@click.command(epilog=recipe_list())
@click.argument("recipe", required=False)
@click.option("--data", metavar="URI", help="The data set: s3://BUCKET/PREFIX or a folder. Same as --data.uri.")
@click.option("--num-workers", metavar="N|MIN:MAX", help="Number of Ray Train workers, or the fewest and the most.")
@click.option("--resume", metavar="NAME", help="Go on with the run of that name from its newest checkpoint.")
@click.option("--dry-run", is_flag=True, help="Show what the run would do, check all that it needs, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
@field_options
def train(recipe: str | None, resume: str | None, dry_run: bool, as_json: bool, **options: str | None) -> None:
    """Train RECIPE on the Ray cluster; register the best weights as the candidate.

    \b
    encnet train context_scenes_r18 --data s3://encnet/data/context-scenes
    encnet train camvid_r18 --data s3://encnet/data/camvid --num-workers 2 --optim.epochs 50
    encnet train --resume camvid_r18-1123-081500

    Any field of the recipe can be set: the options below are all of them. An option that is not given keeps the
    recipe's value.

    --num-workers 1:4 trains on as many of up to four workers as the cluster has room for, and on more or fewer when
    that changes. SIGTERM or Ctrl-C writes a checkpoint and leaves; --resume goes on from there, or from the newest
    checkpoint, with the stored configuration. Of its fields only those can be set that do not change the result:
    workers.*, checkpoint.*, and how data is read.
    """
    if not (recipe or resume):
        raise InputError(f"RECIPE: missing: name one of {', '.join(RECIPES)}, or a run with --resume")
    changes = changed_fields(options)
    config = recipe_config(recipe, changes) if recipe and not resume else None
    if dry_run:
        from workflows.dry_run import show

        show(config or resumed(resume or "", recipe, changes), resume=bool(resume), as_json=as_json)
        return
    settings.require({"mlflow", "ray"})
    from pipeline import launch  # Ray and torch take seconds to import: not for a usage error

    config, _ = launch.resolve(config or resumed(resume or "", recipe, changes))
    workers = "worker" if config.workers.num == 1 else "workers"
    click.echo(f"run {config.name} on {config.data.uri}, {config.workers.count} {workers}", err=True)
    result = launch.run_training(config, resume=bool(resume))
    click.echo(f"validation mIoU {100 * result.miou:.2f} % after {result.steps} steps", err=True)
    click.echo(f"model  {result.model_uri}  (alias candidate)\nrun    {result.run_url}", err=True)
    for line in result.bad_samples:
        click.echo(f"bad sample  {line}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(result)))
