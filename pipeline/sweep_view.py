"""A sweep in a terminal: a table of its trials that keeps up with them; in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.progress import Facts, describe, duration
from pipeline.sweep_config import SweepConfig
from pipeline.sweep_plan import Outcome, Trial, best, count, leaderboard

LINE_EVERY_S = 30.0
_STYLES = {
    Outcome.FINISHED: "green",
    Outcome.STOPPED: "dim",
    Outcome.DIVERGED: "yellow",
    Outcome.FAILED: "red",
    Outcome.OPEN: "",
}


class SweepView(AbstractContextManager["SweepView"]):
    """Shows the trials of one sweep on stderr."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._console = Console(file=sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._began = self._told_at = time.monotonic()
        self._known: dict[int, Outcome] = {}

    def __enter__(self) -> SweepView:
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Show a line of text, above the table where there is one."""
        if self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def show(self, trials: Sequence[Trial], facts: Facts) -> None:
        """Show the trials; `facts` has those of each trial's run, by the trial's number as text."""
        for one in trials:
            before = self._known.get(one.number, Outcome.OPEN)
            if one.outcome is not before:
                self.say(self._end_line(one))
            self._known[one.number] = one.outcome
        if self._console.is_terminal:
            rows = max(4, self._console.height - 8)
            self._live.update(table(self._config, trials, facts, rows, time.monotonic() - self._began), refresh=True)
        elif time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._told_at = time.monotonic()
            self.say(line(self._config, trials, facts))

    def _end_line(self, trial: Trial) -> str:
        return f"{self._config.name}  trial {trial.number} {ending(trial, self._config.metric)}  {values_text(trial)}"


def ending(trial: Trial, metric: str) -> str:
    """How a trial ended: "stopped at 33 % of its steps with miou 12.34 %"."""
    score = "" if trial.score is None else f" with {metric} {100 * trial.score:.2f} %"
    where = f" at {100 * trial.share:.0f} % of its steps" if trial.outcome is Outcome.STOPPED else ""
    return f"{trial.outcome}{where}{score}" + (f": {trial.reason}" if trial.reason else "")


def values_text(trial: Trial) -> str:
    """The values of a trial: "optim.lr 0.0021  optim.kind sgd"."""
    return "  ".join(f"{path} {short(value)}" for path, value in trial.values.items())


def short(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line(config: SweepConfig, trials: Sequence[Trial], facts: Mapping[str, Any]) -> str:
    """The sweep in a line: "NAME  2 of 6 trials ended, 2 running (3: 12/40, 4: 8/40); best miou 43.10 % (trial 1)"."""
    ended = len(trials) - count(trials, Outcome.OPEN)
    running = [
        f"{one.number}: {_steps(facts, one)}" for one in trials if one.outcome is Outcome.OPEN and _steps(facts, one)
    ]
    winner = best(trials)
    parts = [f"{config.name}  {ended} of {config.num_trials} trials ended"]
    if running:
        parts.append(f", {len(running)} running ({', '.join(running)})")
    if winner:
        parts.append(f"; best {config.metric} {100 * (winner.score or 0.0):.2f} % (trial {winner.number})")
    return "".join(parts)


def table(
    config: SweepConfig, trials: Sequence[Trial], facts: Mapping[str, Any], num_rows: int, elapsed_s: float
) -> Table:
    """The trials, those under way first, then the best; so many rows at most."""
    shown = Table(title=f"{config.name}  {duration(elapsed_s)}", title_justify="left", show_edge=False)
    for heading in ("trial", *config.space, "state", "step", f"{config.metric} %", ""):
        shown.add_column(heading, justify="left" if heading in ("state", "") else "right", no_wrap=True)
    rows = sorted(leaderboard(trials), key=lambda one: one.outcome is not Outcome.OPEN)
    for one in rows[:num_rows]:
        now = facts.get(str(one.number), {}) if one.outcome is Outcome.OPEN else {}
        state = ("running" if now else "waiting") if one.outcome is Outcome.OPEN else str(one.outcome)
        score = "" if one.score is None else f"{100 * one.score:.2f}"
        told = {name: value for name, value in now.items() if name != "miou"}
        values = [short(one.values[path]) for path in config.space]
        step = _steps(facts, one) or (str(one.step) if one.step else "")
        words = describe(told) if now else one.reason
        shown.add_row(str(one.number), *values, state, step, score, words, style=_STYLES[one.outcome])
    hidden = len(rows) - len(rows[:num_rows])
    left = config.num_trials - len(trials)
    notes = [f"{hidden} not shown" if hidden else "", f"{left} to begin" if left > 0 else ""]
    shown.caption = ", ".join(filter(None, notes))
    return shown


def _steps(facts: Mapping[str, Any], trial: Trial) -> str:
    now = facts.get(str(trial.number), {}) if trial.outcome is Outcome.OPEN else {}
    return f"{now['step']}/{now['steps']}" if "steps" in now else ""
