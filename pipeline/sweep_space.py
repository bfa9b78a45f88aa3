"""The search space of a sweep: what values a field may take, how they are drawn, and how a person writes them.

`loguniform:1e-4:1e-1` or `choice:sgd,adamw`: the forms of `encnet sweep --space FIELD=...`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.errors import InputError

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
FORMS = "choice:A,B,C  uniform:LOW:HIGH[:POINTS]  loguniform:LOW:HIGH[:POINTS]  int:LOW:HIGH[:STEP]"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Choice:
    """One of a few values; numbers should stand in their order."""

    kind: Literal["choice"] = "choice"
    values: list[Any]
    """The values, at least two."""

    def __post_init__(self) -> None:
        if len(self.values) < 2 or any(one in self.values[:place] for place, one in enumerate(self.values)):
            raise ValueError(f"values: {self.values!r}: give at least two, each once")

    def draw(self, rng: np.random.Generator) -> Any:
        """A value, each as likely."""
        return self.values[int(rng.integers(len(self.values)))]

    def grid(self) -> list[Any]:
        """Every value."""
        return list(self.values)

    def place(self, value: Any) -> float:
        """Where a value lies from 0 to 1."""
        return self.values.index(value) / (len(self.values) - 1)

    def __str__(self) -> str:
        return "choice:" + ",".join(map(str, self.values))


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Uniform:
    """Any number between two."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    points: int = 0
    """Values that a grid takes, evenly spaced, both ends among them; 0: not for a grid."""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.points)

    def draw(self, rng: np.random.Generator) -> float:
        """A number, each as likely."""
        return float(rng.uniform(self.low, self.high))

    def grid(self) -> list[float]:
        """So many numbers as `points`; none without."""
        return np.linspace(self.low, self.high, self.points).tolist()

    def place(self, value: float) -> float:
        """Where a value lies from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def __str__(self) -> str:
        return f"uniform:{self.low:g}:{self.high:g}" + (f":{self.points}" if self.points else "")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LogUniform:
    """Any number between two above 0, each order of magnitude as likely."""

    kind: Literal["loguniform"] = "loguniform"
    low: float
    high: float
    points: int = 0
    """Values that a grid takes, evenly spaced in their logarithm, both ends among them; 0: not for a grid."""

    def __post_init__(self) -> None:
        if self.low <= 0:
            raise ValueError(f"low: {self.low} must be greater than 0")
        _check_range(self.low, self.high, self.points)

    def draw(self, rng: np.random.Generator) -> float:
        """A number, its logarithm uniform."""
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def grid(self) -> list[float]:
        """So many numbers as `points`; none without."""
        return np.geomspace(self.low, self.high, self.points).tolist() if self.points else []

    def place(self, value: float) -> float:
        """Where a value lies from 0 to 1."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def __str__(self) -> str:
        return f"loguniform:{self.low:g}:{self.high:g}" + (f":{self.points}" if self.points else "")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class IntRange:
    """A whole number from `low` on, in steps, to `high` at most."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    step: int = 1
    """The distance of neighbours."""

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"step: {self.step} must be 1 or more")
        if self.low + self.step > self.high:
            raise ValueError(f"high: {self.high} leaves one value only: give at least {self.low + self.step}")

    def draw(self, rng: np.random.Generator) -> int:
        """A number, each as likely."""
        return self.low + self.step * int(rng.integers(len(self.grid())))

    def grid(self) -> list[int]:
        """Every number."""
        return list(range(self.low, self.high + 1, self.step))

    def place(self, value: float) -> float:
        """Where a value lies from 0 to 1."""
        return (value - self.low) / (self.grid()[-1] - self.low)

    def __str__(self) -> str:
        return f"int:{self.low}:{self.high}" + (f":{self.step}" if self.step > 1 else "")


Dimension = Annotated[Choice | Uniform | LogUniform | IntRange, Field(discriminator="kind")]
Space = Mapping[str, Dimension]


def grid_size(space: Space) -> int:
    """The number of points of the grid over all fields; 0 where one of them has none."""
    return math.prod(len(dimension.grid()) for dimension in space.values())


def grid_point(space: Space, number: int) -> dict[str, Any]:
    """Point `number` of the grid, from 0; the last field changes first."""
    for place, point in enumerate(product(*(dimension.grid() for dimension in space.values()))):
        if place == number:
            return dict(zip(space, point, strict=True))
    raise IndexError(number)


def parse_dimension(text: str) -> dict[str, Any]:
    """What "loguniform:1e-4:1e-1" stands for, as plain values. Raises InputError.

    The values of a choice stay texts: what they stand for depends on the field.
    """
    kind, _, rest = text.partition(":")
    if kind == "choice":
        return {"kind": kind, "values": rest.split(",")}
    third = {"uniform": "points", "loguniform": "points", "int": "step"}
    parts = rest.split(":")
    if kind not in third or not 2 <= len(parts) <= 3:
        raise InputError(f"space: {text!r}: write one of {FORMS}")
    return {"kind": kind, **dict(zip(("low", "high", third[kind]), parts, strict=False))}


def _check_range(low: float, high: float, points: int) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"high: {high} must be above low {low}")
    if points < 0 or points == 1:
        raise ValueError(f"points: {points}: give 2 or more, or 0")
