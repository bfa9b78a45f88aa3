"""Pictures of a sweep: which values led to which scores, and how much each field had to do with it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.sweep_plan import Outcome, Trial
from pipeline.sweep_space import Choice, IntRange, LogUniform, Space

MOST_TICKS = 8
_COLOURS = colormaps["viridis"]
_DPI = 110


@dataclass(frozen=True, kw_only=True)
class Influence:
    """How much of the order of the trials' scores one field explains by itself."""

    share: float
    """Of the variance of the scores' ranks, in 0..1."""
    by_chance: float
    """What it would be on average if the field made no difference."""


def influences(trials: Sequence[Trial], space: Space) -> dict[str, Influence]:
    """Field -> how much of the scores' order it explains, of the trials that have a score.

    That is eta squared, the share of the variance of the scores' ranks that lies between groups of trials: those with
    the same value of a choice, and for numbers with many values the lowest, ..., the highest quarter, third or half of
    them, as there are enough trials. So it finds a number that is best in the middle, but no interplay of fields. Under
    no influence its mean is (k - 1) / (n - 1) for n trials in k groups. Nothing is claimed where fewer than three
    trials have a score, or all are in one group.
    """
    scored = [one for one in trials if one.score is not None]
    found: dict[str, Influence] = {}
    ranks = ranked([one.score for one in scored])
    for path, dimension in space.items():
        places = np.array([dimension.place(one.values[path]) for one in scored])
        groups = places if isinstance(dimension, Choice) else grouped(places)
        num_groups = len(np.unique(groups))
        if len(scored) >= 3 and num_groups > 1 and np.ptp(ranks) > 0:
            chance = (num_groups - 1) / (len(scored) - 1)
            found[path] = Influence(share=_between(ranks, groups), by_chance=chance)
    return found


def grouped(places: np.ndarray) -> np.ndarray:
    """The group of each of n numbers (n,): itself where they take few values, else its quarter, third or half."""
    num_groups = 4 if len(places) >= 16 else 3 if len(places) >= 6 else 2
    if len(np.unique(places)) <= num_groups:
        return places
    groups: np.ndarray = np.floor((ranked(places) - 0.5) / len(places) * num_groups)
    return groups


def ranked(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    """The ranks (n,) of values, from 1; equal ones share the mean of theirs."""
    array = np.asarray(values, np.float64)
    below = (array[:, None] > array).sum(1)
    equal = (array[:, None] == array).sum(1)
    ranks: np.ndarray = below + (equal + 1) / 2
    return ranks


def _between(ranks: np.ndarray, groups: np.ndarray) -> float:
    """Eta squared: the share of the variance of `ranks` (n,) that lies between the groups of equal `groups` (n,)."""
    fitted = np.empty_like(ranks)
    for group in np.unique(groups):
        fitted[groups == group] = ranks[groups == group].mean()
    return float(fitted.var() / ranks.var())


def influence_picture(found: Mapping[str, Influence], num_trials: int) -> bytes:
    """A bar for each field, the strongest on top, as PNG; a mark shows what chance alone would give."""
    fields = sorted(found, key=lambda path: found[path].share)
    figure = Figure(figsize=(8, 1.6 + 0.45 * max(1, len(fields))), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(fields, [found[path].share for path in fields], color=_COLOURS(0.35), height=0.6)
    for row, path in enumerate(fields):
        axes.plot([found[path].by_chance] * 2, [row - 0.38, row + 0.38], color="black", lw=2)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance of the scores' ranks that the field explains by itself (eta squared)")
    axes.set_title(f"Influence of each field, {num_trials} trials; black: by chance alone", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def parallel_coordinates(trials: Sequence[Trial], space: Space, metric: str) -> bytes:
    """An axis for each field and one for the score, a line for each trial, as PNG.

    Lines are the brighter the better; those of trials that were ended early are thin and dashed.
    """
    scored = sorted((one for one in trials if one.score is not None), key=lambda one: one.score or 0.0)
    figure = Figure(figsize=(2.4 + 2.2 * len(space), 5), layout="constrained")
    axes = figure.add_subplot()
    scores = [one.score or 0.0 for one in scored]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    spread = high - low or 1.0
    for one, score in zip(scored, scores, strict=True):
        place = (score - low) / spread
        heights = [dimension.place(one.values[path]) for path, dimension in space.items()]
        whole = one.outcome is Outcome.FINISHED
        style: dict[str, Any] = {"lw": 2.0, "ls": "-"} if whole else {"lw": 1.0, "ls": "--", "alpha": 0.7}
        axes.plot([*heights, place], color=_COLOURS(0.05 + 0.85 * place), **style)
    for number, dimension in enumerate(space.values()):
        _axis(axes, number, {dimension.place(value): _short(value) for value in _ticks(dimension)})
    _axis(axes, len(space), {at: f"{100 * (low + at * spread):.1f}" for at in np.linspace(0, 1, 6)})
    axes.set_xticks(range(len(space) + 1), [*space, f"{metric} %"])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(space) + 0.35)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(scored)} trials; dashed: ended early", loc="left", fontsize=11)
    return _png(figure)


def _ticks(dimension: Any) -> list[Any]:
    if isinstance(dimension, Choice | IntRange):
        grid = dimension.grid()
        return grid[:: -(-len(grid) // MOST_TICKS)]
    spaced = np.geomspace if isinstance(dimension, LogUniform) else np.linspace
    return list(spaced(dimension.low, dimension.high, 5).tolist())


def _axis(axes: Any, x: int, ticks: Mapping[float, str]) -> None:
    axes.axvline(x, color="0.4", lw=1, zorder=0)
    for height, text in ticks.items():
        axes.plot([x - 0.015, x + 0.015], [height, height], color="0.4", lw=1)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}
        axes.text(x + 0.03, height, text, va="center", fontsize=8, bbox=box)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="png", dpi=_DPI)
    return stream.getvalue()
