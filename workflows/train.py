"""`encnet train RECIPE`: train on the Ray cluster, track in MLflow, register the best weights as the candidate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from infra.local import settings
from pipeline.config import RunConfig, field_help
from pipeline.errors import InputError, did_you_mean
from workflows.recipes import RECIPES

_SHORT = {"data": "data.uri", "num_workers": "workers.num"}


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


@click.command(epilog=recipe_list())
@click.argument("recipe")
@click.option("--data", metavar="URI", help="The data set: s3://BUCKET/PREFIX or a folder. Same as --data.uri.")
@click.option("--num-workers", metavar="N", help="Number of Ray Train workers. Same as --workers.num.")
@click.option("--resume", is_flag=True, help="Go on with the run called --name from its latest checkpoint.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the resolved configuration and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last on stdout.")
@field_options
def train(recipe: str, resume: bool, dry_run: bool, as_json: bool, **options: str | None) -> None:
    """Train RECIPE on the Ray cluster; register the best weights as the candidate.

    \b
    encnet train context_scenes_r18 --data s3://encnet/data/context-scenes
    encnet train camvid_r18 --data s3://encnet/data/camvid --num-workers 2 --optim.epochs 50

    Any field of the recipe can be set: the options below are all of them. An option that is not given keeps the
    recipe's value.
    """
    changes = {_SHORT.get(name, name.replace("__", ".")): value for name, value in options.items() if value is not None}
    config = recipe_config(recipe, changes)
    if resume and not config.name:
        raise InputError("resume: which run? give its --name")
    settings.require({"mlflow", "ray"})
    from pipeline import launch  # Ray and torch take seconds to import: not for a usage error

    config, _ = launch.resolve(config)
    if dry_run:
        click.echo(json.dumps(config.to_dict(), indent=2))
        return
    click.echo(f"run {config.name} on {config.data.uri}, {config.workers.num} workers", err=True)
    result = launch.run_training(config, resume=resume)
    click.echo(f"validation mIoU {100 * result.miou:.2f} % after {result.steps} steps", err=True)
    click.echo(f"model  {result.model_uri}  (alias candidate)\nrun    {result.run_url}", err=True)
    for line in result.bad_samples:
        click.echo(f"bad sample  {line}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(result)))
