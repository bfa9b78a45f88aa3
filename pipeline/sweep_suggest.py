"""Which values a trial gets: pure functions of the sweep's configuration and of the trials before it.

So a sweep that is resumed chooses as if it had never been away, and nothing but the journal of its trials is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.sweep_config import SweepConfig
from pipeline.sweep_plan import Outcome, Trial
from pipeline.sweep_space import Choice, Dimension, IntRange, LogUniform, grid_point

WORST = 0.0
"""The score of a trial that diverged: of an IoU there is none lower."""


def suggest(config: SweepConfig, trials: Sequence[Trial], number: int) -> dict[str, Any]:
    """Field -> value of trial `number`, given the trials before it."""
    match config.searcher:
        case "grid":
            return grid_point(config.space, number)
        case "tpe":
            return _by_tpe(config, trials, number)
        case "random":
            rng = np.random.default_rng([config.search_seed, number])
            return {path: config.space[path].draw(rng) for path in sorted(config.space)}


def _by_tpe(config: SweepConfig, trials: Sequence[Trial], number: int) -> dict[str, Any]:
    """Optuna's tree-structured Parzen estimator; its first values are random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence([config.search_seed, number]).generate_state(1)[0])
    # Trials under way count as bad ones, so that those that run at once do not try the same.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {path: _distribution(dimension) for path, dimension in config.space.items()}
    study.add_trials([told for one in trials if (told := _told(config, one, distributions))])
    asked = study.ask(distributions).params
    return {path: _value(dimension, asked[path]) for path, dimension in config.space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it; of a choice, the places of its values."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(range(len(dimension.values)))
    if isinstance(dimension, IntRange):
        return IntDistribution(dimension.low, dimension.grid()[-1], step=dimension.step)
    return FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def _value(dimension: Dimension, asked: Any) -> Any:
    return dimension.values[asked] if isinstance(dimension, Choice) else asked


def _told(config: SweepConfig, trial: Trial, distributions: dict[str, BaseDistribution]) -> FrozenTrial | None:
    """What Optuna is told of a trial; None of one that failed, which says nothing of its values."""
    if trial.outcome is Outcome.FAILED:
        return None
    params = {
        path: dimension.values.index(trial.values[path]) if isinstance(dimension, Choice) else trial.values[path]
        for path, dimension in config.space.items()
    }
    ended: dict[str, Any] = {"state": TrialState.RUNNING}
    if trial.outcome is Outcome.DIVERGED:
        ended = {"state": TrialState.COMPLETE, "value": WORST}
    elif trial.outcome is Outcome.FINISHED:
        ended = {"state": TrialState.COMPLETE, "value": trial.score}
    elif trial.outcome is Outcome.STOPPED:
        percent = {round(100 * score.share): score.value for score in trial.scores}
        ended = {"state": TrialState.PRUNED, "intermediate_values": percent}
    return create_trial(params=params, distributions=distributions, **ended)
