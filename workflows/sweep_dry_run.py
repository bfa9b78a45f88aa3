"""`encnet sweep SWEEP --dry-run`: the trials that would be, and whether all that they need is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import click

from pipeline.sweep import room
from pipeline.sweep_config import SchedulerConfig, SweepConfig
from pipeline.sweep_plan import Trial
from pipeline.sweep_suggest import suggest
from pipeline.sweep_view import values_text
from workflows.run_checks import Findings, check_run

_SHOWN = 10


def show(config: SweepConfig, *, resume: bool = False, as_json: bool = False) -> None:
    """Print what `encnet sweep` would do with `config`, and check what can be checked without training.

    Raises InputError, once all is printed, when a check failed.
    """
    first = first_trials(config, 1)[0]
    # The trials' names are checked when they are run: one that was broken off has its run already.
    found = check_run(replace(config.trial(0, first.values), name=""), resume=resume)
    at_once: list[int] = []
    if found.cluster:
        found.look("room", lambda: _room(config, at_once))
    if as_json:
        click.echo(json.dumps(as_object(config, found, at_once)))
    else:
        for line in report(config, found):
            click.echo(line)
    found.require()


def first_trials(config: SweepConfig, number: int) -> list[Trial]:
    """The first trials, as far as their values do not depend on scores."""
    trials: list[Trial] = []
    for place in range(min(number, config.num_trials)):
        trials.append(Trial(number=place, values=suggest(config, trials, place)))
    return trials


def rungs(scheduler: SchedulerConfig) -> list[float]:
    """At which shares of its steps a trial may be ended by asha."""
    found, at = [], scheduler.grace
    while at < 1 - 1e-9:
        found.append(at)
        at *= scheduler.reduction
    return found


def as_object(config: SweepConfig, found: Findings, at_once: list[int]) -> dict[str, Any]:
    """All of it as plain, JSON-ready values."""
    return {
        "ok": not found.failed,
        "config": config.to_dict(),
        "num_trials": config.num_trials,
        "concurrent": at_once[0] if at_once else None,
        "first_trials": [one.values for one in first_trials(config, _SHOWN)],
        "plan": asdict(found.plan) if found.plan else None,
        "checks": [asdict(check) for check in found.checks],
    }


def report(config: SweepConfig, found: Findings) -> Iterator[str]:
    """All of it as lines for people."""
    yield click.style("space", bold=True) + f"  searched by {config.searcher} for the highest {config.metric}"
    for path, dimension in config.space.items():
        yield f"  {path:<24} {dimension}"
    yield click.style("\nbudget", bold=True)
    steps = f", of {found.plan.steps:,} steps each at most" if found.plan else ""
    yield f"  trials         {config.num_trials}{steps}"
    yield f"  ended early    {_scheduler(config.scheduler)}"
    if config.budget.wall_s:
        yield f"  time           none begins after {config.budget.wall_s:g} s"
    if found.plan:
        yield f"  arithmetic     {config.num_trials * found.plan.flop:.2g} FLOP at most"
    yield click.style("\nfirst trials", bold=True)
    for one in first_trials(config, _SHOWN):
        yield f"  {one.number:<4} {values_text(one)}"
    yield click.style("\nchecks", bold=True) + "  of the first trial"
    yield from found.lines()


def _scheduler(scheduler: SchedulerConfig) -> str:
    if scheduler.kind == "asha":
        places = ", ".join(f"{100 * at:.0f} %" for at in rungs(scheduler))
        return f"asha: at {places} of the steps the best 1 in {scheduler.reduction:g} go on"
    if scheduler.kind == "median":
        return f"median: from {100 * scheduler.grace:.0f} % of the steps on those below the median of the others"
    return "none"


def _room(config: SweepConfig, at_once: list[int]) -> str:
    at_once.append(room(config))
    trials = "trial" if at_once[0] == 1 else "trials"
    return f"for {at_once[0]} {trials} at once, of {config.run.workers.count} workers"
