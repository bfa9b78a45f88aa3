"""The values that a field may take in a sweep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InputError
from pipeline.sweep_space import (
    Choice,
    Dimension,
    IntRange,
    LogUniform,
    Uniform,
    grid_point,
    grid_size,
    parse_dimension,
)

_ADAPTER: TypeAdapter[Dimension] = TypeAdapter(Dimension)
_NUMBERS = st.floats(1e-6, 1e6)
_RANGES = st.tuples(_NUMBERS, _NUMBERS).map(sorted).filter(lambda pair: pair[1] > 1.001 * pair[0])


def _parsed(text: str) -> Dimension:
    return _ADAPTER.validate_python(parse_dimension(text))


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("loguniform:1e-4:1e-1", LogUniform(low=1e-4, high=1e-1)),
        ("loguniform:0.001:0.1:3", LogUniform(low=0.001, high=0.1, points=3)),
        ("uniform:-1:2.5", Uniform(low=-1.0, high=2.5)),
        ("int:2:8:3", IntRange(low=2, high=8, step=3)),
        ("choice:sgd,adamw", Choice(values=["sgd", "adamw"])),
    ],
)
def test_a_dimension_is_written_as_it_is_read(text: str, dimension: Dimension) -> None:
    assert _parsed(text) == dimension
    assert _parsed(str(dimension)) == dimension


@pytest.mark.parametrize("text", ["", "0.1", "loguniform:1", "int:1:2:3:4", "gauss:0:1"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"space: .*: write one of choice:A,B,C  uniform:LOW:HIGH"):
        parse_dimension(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("uniform:2:1", "high: 1.0 must be above low 2.0"),
        ("uniform:1:inf", "high: inf must be above low 1.0"),
        ("uniform:1:2:1", "points: 1: give 2 or more, or 0"),
        ("loguniform:0:1", "low: 0.0 must be greater than 0"),
        ("int:3:3", "high: 3 leaves one value only: give at least 4"),
        ("int:1:9:0", "step: 0 must be 1 or more"),
        ("choice:a", r"values: \['a'\]: give at least two, each once"),
        ("choice:a,b,a", "give at least two, each once"),
    ],
)
def test_a_range_without_values_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        _parsed(text)


@given(_RANGES, st.integers(0, 2**32), st.booleans())
def test_numbers_are_drawn_within_their_range(pair: list[float], seed: int, in_logarithm: bool) -> None:
    dimension = (LogUniform if in_logarithm else Uniform)(low=pair[0], high=pair[1], points=5)
    drawn = dimension.draw(np.random.default_rng(seed))
    assert pair[0] <= drawn <= pair[1]
    assert -1e-9 <= dimension.place(drawn) <= 1 + 1e-9
    grid = dimension.grid()
    assert [dimension.place(value) for value in grid] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-6)


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**32))
def test_whole_numbers_are_drawn_from_their_grid(low: int, more: int, step: int, seed: int) -> None:
    dimension = IntRange(low=low, high=low + step + more, step=step)
    drawn = dimension.draw(np.random.default_rng(seed))
    assert drawn in dimension.grid()
    assert (drawn - low) % step == 0
    assert 0 <= dimension.place(drawn) <= 1


def test_logarithms_are_as_likely_in_each_decade() -> None:
    dimension, rng = LogUniform(low=1e-4, high=1e-1), np.random.default_rng(0)
    decades = [math.floor(math.log10(dimension.draw(rng))) for _ in range(3000)]
    assert [decades.count(decade) for decade in (-4, -3, -2)] == pytest.approx([1000] * 3, rel=0.1)


def test_a_grid_has_every_combination_once() -> None:
    space: dict[str, Dimension] = {
        "a": Choice(values=["x", "y", "z"]),
        "b": IntRange(low=1, high=2),
        "c": LogUniform(low=1, high=4, points=3),
    }
    points = [tuple(grid_point(space, number).values()) for number in range(grid_size(space))]
    assert len(set(points)) == len(points) == 18
    assert points[:2] == [("x", 1, 1.0), ("x", 1, pytest.approx(2.0))]
    with pytest.raises(IndexError):
        grid_point(space, 18)
    assert grid_size({**space, "d": Uniform(low=0, high=1)}) == 0
