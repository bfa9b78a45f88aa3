"""Pictures of a sweep, and the figures in them against slow references."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.sweep_pictures import grouped, influence_picture, influences, parallel_coordinates, ranked
from pipeline.sweep_plan import Outcome, Trial
from pipeline.sweep_space import Choice, Dimension, LogUniform
from tests.unit.pipeline.small_sweep import small_sweep, trial

SPACE = small_sweep().space
_TRIALS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.5, 0.8]),
        st.sampled_from([1e-4, 3e-4, 1e-3, 2e-2, 1e-1]),
        st.sampled_from(["sgd", "adamw"]),
    ),
    min_size=3,
    max_size=12,
).map(
    lambda rows: [
        trial(number, Outcome.FINISHED, score, lr=lr, kind=kind) for number, (score, lr, kind) in enumerate(rows)
    ]
)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7]), min_size=1, max_size=20))
def test_equal_values_share_their_ranks(values: list[float]) -> None:
    np.testing.assert_allclose(ranked(values), stats.rankdata(values))


@given(_TRIALS)
def test_influences_are_as_the_textbook_has_them(trials: list[Trial]) -> None:
    found = influences(trials, SPACE)
    scores = stats.rankdata([one.score or 0.0 for one in trials]).tolist()
    for path, dimension in SPACE.items():
        values = [one.values[path] for one in trials]
        groups = values if path == "optim.kind" else grouped(np.array([dimension.place(value) for value in values]))
        by_group = [[score for score, group in zip(scores, groups, strict=True) if group == one] for one in set(groups)]
        assert (path in found) == (len(set(scores)) > 1 and len(by_group) > 1)
        if path in found:
            within = sum(sum((score - sum(part) / len(part)) ** 2 for score in part) for part in by_group)
            mean = sum(scores) / len(scores)
            assert found[path].share == pytest.approx(1 - within / sum((one - mean) ** 2 for one in scores), abs=1e-9)
            assert found[path].by_chance == pytest.approx((len(by_group) - 1) / (len(scores) - 1))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_groups_are_alike_in_size_and_in_the_order_of_their_numbers(values: list[float]) -> None:
    places = np.array(values)
    groups = grouped(places)
    order = np.argsort(places, kind="stable")
    assert (np.diff(groups[order]) >= 0).all()
    assert all(len(set(groups[places == one].tolist())) == 1 for one in values), "equal numbers are together"
    if len(set(values)) == len(values) >= 16:
        sizes = np.unique(groups, return_counts=True)[1]
        assert len(sizes) == 4
        assert sizes.max() - sizes.min() <= 1


def test_a_number_that_is_best_in_the_middle_is_found() -> None:
    trials = [
        trial(
            number,
            Outcome.FINISHED,
            0.6 - 0.1 * abs(exponent + 2.5),
            lr=10**exponent,
            kind=("sgd", "adamw")[number % 2],
        )
        for number, exponent in enumerate(np.linspace(-4, -1, 24).tolist())
    ]
    found = influences(trials, SPACE)
    assert found["optim.lr"].share > 0.7
    assert found["optim.kind"].share < 0.1


def test_chance_gives_as_much_as_is_marked() -> None:
    rng = np.random.default_rng(0)
    space: dict[str, Dimension] = {
        "optim.lr": LogUniform(low=1e-4, high=1e-1),
        "optim.kind": Choice(values=["a", "b", "c"]),
    }
    shares: dict[str, list[float]] = {path: [] for path in space}
    for _ in range(400):
        trials = [
            trial(number, Outcome.FINISHED, rng.random(), lr=10 ** rng.uniform(-4, -1), kind="abc"[number % 3])
            for number in range(9)
        ]
        for path, one in influences(trials, space).items():
            shares[path].append(one.share)
    assert np.mean(shares["optim.lr"]) == pytest.approx(2 / 8, abs=0.03)
    assert np.mean(shares["optim.kind"]) == pytest.approx(2 / 8, abs=0.03)


def test_without_enough_scores_nothing_is_claimed() -> None:
    assert influences([trial(0, Outcome.FINISHED, 0.1), trial(1, Outcome.FINISHED, 0.2, lr=0.1)], SPACE) == {}
    same = [trial(number, Outcome.FINISHED, 0.3, lr=10.0**-number) for number in range(1, 5)]
    assert influences(same, SPACE) == {}


@pytest.mark.parametrize("scores", [(0.1, 0.4, 0.3, 0.2), (0.3, 0.3, 0.3, 0.3)])
def test_pictures_are_drawn(scores: tuple[float, ...]) -> None:
    trials = [
        trial(number, Outcome.FINISHED if number else Outcome.STOPPED, score, lr=10.0 ** -(number % 4 + 1), kind=kind)
        for number, (score, kind) in enumerate(zip(scores, ["sgd", "adamw"] * 2, strict=True))
    ]
    trials.append(trial(9, Outcome.FAILED))
    lines = _picture(parallel_coordinates(trials, SPACE, "miou"))
    assert lines.shape[1] > lines.shape[0] > 300
    assert len(np.unique(lines.reshape(-1, 3), axis=0)) > 50, "lines of several colours"
    bars = _picture(influence_picture(influences(trials, SPACE), 4))
    assert bars.shape[1] > 700


def _picture(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture
