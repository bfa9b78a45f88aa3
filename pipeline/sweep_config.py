"""The configuration of a sweep: a recipe, the fields that vary, and how values are chosen and trials ended early.

As with a run, a sweep is a function that returns a whole `SweepConfig`; what is resolved is logged, stored and loaded
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.config import RunConfig, explain, flat
from pipeline.errors import InputError, did_you_mean
from pipeline.resume import FREE
from pipeline.sweep_space import Choice, Dimension, grid_size

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_SAME_FOR_ALL = ("recipe", "name", "storage", "experiment", *FREE)
"""Fields, or sections with a dot at the end, that make no difference to what is learnt, or to which run it is."""
MIOU = "miou"
CLASS_IOU = "iou/"


SCHEDULERS = ("fifo", "asha", "median")
_NEED_CHECKPOINTS = ("pbt", "pb2", "hyperband", "bohb")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SchedulerConfig:
    """Which trials are ended before their last step."""

    kind: str = "asha"
    """fifo: none; asha: those below the best 1/reduction at a rung; median: those below the median of the others."""
    grace: float = 0.2
    """The share of a trial's own steps before which it is not ended."""
    reduction: float = 3.0
    """asha: rungs are at grace, grace * reduction, ... of the steps, and the best 1/reduction pass each."""

    def __post_init__(self) -> None:
        if self.kind in _NEED_CHECKPOINTS:
            raise ValueError(
                f"kind: {self.kind!r} pauses trials and copies checkpoints between them, and Ray Tune has none of "
                "them: each run keeps its own on storage, and goes on from no other's: use asha, median or fifo"
            )
        if self.kind not in SCHEDULERS:
            raise ValueError(f"kind: {self.kind!r}: {did_you_mean(self.kind, SCHEDULERS)}")
        if not 0 < self.grace < 1:
            raise ValueError(f"grace: {self.grace} is out of range: give a share of the steps, such as 0.2")
        if self.reduction <= 1:
            raise ValueError(f"reduction: {self.reduction} must be greater than 1")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BudgetConfig:
    """How much is tried. How long each trial is stands in its recipe: optim.epochs or optim.max_steps."""

    trials: int = 20
    """The number of trials; a grid may have fewer."""
    wall_s: float = 0.0
    """No trial begins after so many seconds, and those under way go on to their end; 0: no limit."""
    concurrent: int = 0
    """The most trials at once; 0: as many as the cluster has room for."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials: {self.trials} must be 1 or more")
        for name in ("wall_s", "concurrent"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SweepConfig:
    """One sweep, whole."""

    sweep: str = "custom"
    """The sweep this configuration started from."""
    name: str = ""
    """The sweep's name on storage and in MLflow, and the beginning of its trials'; empty: sweep and time of day."""
    run: RunConfig
    """What all trials have in common."""
    space: dict[str, Dimension]
    """Field of the run, by dotted name -> the values it may take."""
    metric: str = MIOU
    """What is to be high: miou, or iou/CLASS, each of a validation. The best validation of a trial counts."""
    searcher: Literal["random", "grid", "tpe"] = "random"
    """random: independent draws; grid: every combination; tpe: Optuna's, which learns from the trials before."""
    search_seed: int = 0
    """Seeds the choice of values."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("space: empty: name a field and its values, --space optim.lr=loguniform:1e-4:1e-1")
        for path, dimension in self.space.items():
            self._check(path, dimension)
        if self.metric != MIOU and not self.metric.startswith(CLASS_IOU):
            raise ValueError(f"metric: {self.metric!r}: give {MIOU}, or {CLASS_IOU}CLASS")
        if self.searcher == "grid" and not grid_size(self.space):
            endless = [path for path, dimension in self.space.items() if not dimension.grid()]
            raise ValueError(
                f"space: {endless[0]}: a grid needs to know how many values: {self.space[endless[0]]}:POINTS"
            )
        if self.run.validation.where == "beside":
            raise ValueError(
                "run.validation.where: 'beside' gives the scores too late to end a trial by them: use in_loop"
            )

    def _check(self, path: str, dimension: Dimension) -> None:
        """Raise InputError for a field that can't vary, or a value that it can't take."""
        fields = flat(self.run.to_dict())
        if path not in fields:
            raise InputError(f"space: {path}: no such field: {did_you_mean(path, fields)}")
        if path.startswith(_SAME_FOR_ALL):
            raise InputError(f"space: {path}: makes no difference to what a trial learns: set it for all of them")
        values = dimension.values if isinstance(dimension, Choice) else [dimension.low, dimension.high]
        for value in values:
            self.run.override({path: value})

    @property
    def num_trials(self) -> int:
        """How many trials there are to be."""
        size = grid_size(self.space) if self.searcher == "grid" else self.budget.trials
        return min(size, self.budget.trials)

    def trial_name(self, number: int) -> str:
        """The name of a trial's run, the same each time it is run."""
        return f"{self.name}-{number:03d}"

    def trial(self, number: int, values: Mapping[str, Any]) -> RunConfig:
        """The run that a trial is. Raises InputError for values that do not go together."""
        run = self.run.override(values)
        # A scheduler needs the score at once, and beside training there is room for other trials.
        validation = replace(run.validation, where="in_loop")
        return replace(run, name=self.trial_name(number), validation=validation)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain, JSON-ready values."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepConfig:
        """Build from plain values. Raises InputError naming every field at fault, its value and the remedy."""
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            raise InputError(explain(error)) from None

    def changed(
        self, *, run: Mapping[str, str], space: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]
    ) -> SweepConfig:
        """A copy with fields of the run, of the space and of its own replaced, each by dotted name. Raises InputError.

        A field of the run that is set by `run` no longer varies.
        """
        base = self.run.override(run)
        values = self.to_dict()
        kept = {path: dimension for path, dimension in values["space"].items() if path not in run}
        for path, dimension in space.items():
            kept[path] = typed(base, path, dimension)
        values |= {"run": base.to_dict(), "space": kept}
        for path, value in own.items():
            section, _, leaf = path.rpartition(".")
            (values[section] if section else values)[leaf] = value
        return SweepConfig.from_dict(values)


def typed(run: RunConfig, path: str, dimension: Mapping[str, Any]) -> dict[str, Any]:
    """A dimension of the field `path`, its values as that field has them where they are texts. Raises InputError."""
    if dimension.get("kind") != "choice":
        return dict(dimension)
    values = [flat(run.override({path: value}).to_dict())[path] for value in dimension["values"]]
    return {**dimension, "values": values}


_ADAPTER = TypeAdapter(SweepConfig)
