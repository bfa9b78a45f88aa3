"""`encnet train RECIPE --dry-run`: the run that would be, in figures, and whether all that it needs is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import click
from rich.filesize import decimal

from encnet import ModelConfig
from pipeline.config import RunConfig, flat
from pipeline.memory_estimate import StepMemory
from pipeline.run_plan import RunPlan
from workflows.recipes import RECIPES
from workflows.run_checks import Findings, check_run

_BARS = " ▁▂▃▄▅▆▇█"
_CURVE_ROWS = 4
_MARKS = {"given": "*", "recipe": "+", "default": " "}


def show(config: RunConfig, *, resume: bool = False, as_json: bool = False) -> None:
    """Print what `encnet train` would do with `config`, and check what can be checked without training.

    Raises InputError, once all is printed, when a check failed.
    """
    found = check_run(config, resume=resume)
    if as_json:
        click.echo(json.dumps(as_object(config, found)))
    else:
        for line in report(config, found):
            click.echo(line)
    found.require()


def as_object(config: RunConfig, found: Findings) -> dict[str, Any]:
    """All of it as plain, JSON-ready values."""
    return {
        "ok": not found.failed,
        "config": config.to_dict(),
        "set": {path: one.source for path, one in settings(config).items() if one.source != "default"},
        "plan": asdict(found.plan) if found.plan else None,
        "memory": asdict(found.memory) if found.memory else None,
        "cluster": found.cluster,
        "checks": [asdict(check) for check in found.checks],
    }


def report(config: RunConfig, found: Findings) -> Iterator[str]:
    """All of it as lines for people."""
    yield from _configuration(config)
    if found.plan:
        yield from _plan(config, found.plan)
    if found.memory:
        yield from _memory(config, found.memory)
    yield click.style("\nchecks", bold=True)
    yield from found.lines()


class Setting(NamedTuple):
    """A field's value, and what it would be without the command line, and without the recipe."""

    value: Any
    recipe: Any
    default: Any

    @property
    def source(self) -> str:
        """Who set it: "given" (otherwise than the recipe has it), "recipe" or "default"."""
        if self.value != self.recipe:
            return "given"
        return "default" if self.value == self.default else "recipe"

    @property
    def remark(self) -> str:
        """What it is in place of; "" for a default."""
        other = {"given": f"recipe: {_text(self.recipe)}", "recipe": f"default: {_text(self.default)}"}
        return other.get(self.source, "")


def settings(config: RunConfig) -> dict[str, Setting]:
    """Every field, by dotted name."""
    defaults = _defaults(config)
    recipe = RECIPES[config.recipe]() if config.recipe in RECIPES else defaults
    values, by_recipe, by_default = (flat(one.to_dict()) for one in (config, recipe, defaults))
    return {path: Setting(value, by_recipe[path], by_default[path]) for path, value in values.items()}


def _defaults(config: RunConfig) -> RunConfig:
    """What a recipe has that says nothing but its name and the number of classes, for which there is no default."""
    return RunConfig(recipe=config.recipe, model=ModelConfig(num_classes=config.model.num_classes))


def _configuration(config: RunConfig) -> Iterator[str]:
    yield click.style("configuration", bold=True) + "  + set by the recipe, * otherwise than the recipe has it"
    section = ""
    for path, one in settings(config).items():
        *parents, name = path.split(".")
        if ".".join(parents) != section:
            section = ".".join(parents)
            yield f"  {section}"
        line = f"  {_MARKS[one.source]} {'  ' if parents else ''}{name:<22} {_text(one.value):<24} {one.remark}"
        yield click.style(line.rstrip(), bold=True if one.source == "given" else None)


def _plan(config: RunConfig, plan: RunPlan) -> Iterator[str]:
    optim, validation = config.optim, config.validation
    size = sum(plan.checkpoint_bytes.values())
    files = ", ".join(f"{name} {decimal(part)}" for name, part in plan.checkpoint_bytes.items())
    micro = f" in micro-steps of {optim.group_size}" if optim.group_size < optim.batch_size else ""
    yield click.style("\nplan", bold=True)
    yield f"  steps          {plan.steps:,} of {optim.batch_size} images{micro}: {plan.epochs:.1f} epochs"
    every = "epoch" if validation.every_epochs == 1 else f"{validation.every_epochs} epochs"
    yield f"  validations    {plan.validations}, after every {every} and at the end"
    yield (
        f"  reads          {decimal(plan.epoch_bytes)} an epoch, {decimal(plan.validation_bytes)} a validation, "
        f"{decimal(plan.total_bytes)} in all"
    )
    yield f"  arithmetic     {plan.flop:.2g} FLOP, forward and backward"
    yield f"  checkpoints    {decimal(size)} each ({files})"
    yield (
        f"                 with each validation and every {config.checkpoint.every_s:g} s; "
        f"on storage at most {decimal(plan.kept_bytes)}"
    )
    head = f", {optim.head_lr_factor:g} times that in the head" if optim.head_lr_factor != 1 else ""
    yield f"  learning rate  {optim.schedule}, {max(plan.learning_rates):.3g} at most{head}"
    rows = curve(plan.learning_rates)
    labels = [f"{max(plan.learning_rates):.3g}", *[""] * (len(rows) - 2), "0"]
    for label, row in zip(labels, rows, strict=True):
        yield f"    {label:>10} |{row}"
    yield f"    {'step':>10}  0{plan.steps:>{max(1, len(plan.learning_rates) - 1)},}"


def curve(values: list[float], rows: int = _CURVE_ROWS) -> list[str]:
    """A picture of values of at least 0 as rows of blocks, a column a value, the largest as high as all rows."""
    levels = len(_BARS) - 1
    top = max(values) or 1.0
    heights = [round(value / top * rows * levels) for value in values]
    return ["".join(_BARS[min(max(h - row * levels, 0), levels)] for h in heights) for row in reversed(range(rows))]


def _memory(config: RunConfig, memory: StepMemory) -> Iterator[str]:
    height, width = config.augment.crop_size
    parts = {name: size for name, size in asdict(memory).items() if name not in ("images", "peak") and size}
    yield click.style("\nmemory of a worker", bold=True) + (
        f"  {memory.images} of {config.optim.group_size} images of {height}x{width}, {config.precision}"
    )
    for name, size in parts.items():
        yield f"  {name:<14} {decimal(size):>10}"
    yield f"  {'at most':<14} {decimal(memory.peak):>10}  at once; on CPUs a process holds up to 1.4 times that"
    snapshot = memory.weights + memory.average + memory.optimizer
    yield f"  {'blocks':<14} {decimal(config.data.memory_bytes):>10}  of what is read, in the host's memory"
    yield f"  {'snapshot':<14} {decimal(snapshot):>10}  there too, on rank 0, while a checkpoint is uploaded"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value) if value != "" else "-"
