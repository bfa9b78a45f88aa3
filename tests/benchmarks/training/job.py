"""What is trained, the same on all sides of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.config import RunConfig
from workflows.train import recipe_config

COMPARABLE: Mapping[str, str] = {
    "data.threads": "1",
    "validation.every_epochs": "1000000",
    "validation.pictures": "0",
}
"""One thread that decodes, as one that computes; validation at the end only, which a bare loop does not do."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe on a data set, with fields changed: by dotted name, as `encnet train` takes them."""

    recipe: str
    data: str
    changes: Mapping[str, str] = field(default_factory=dict)

    def changed(self, changes: Mapping[str, str]) -> Job:
        """The same with more fields changed."""
        return replace(self, changes={**self.changes, **changes})

    @property
    def values(self) -> dict[str, str]:
        """All fields that are not the recipe's."""
        return {**COMPARABLE, **self.changes, "data.uri": self.data}

    @property
    def arguments(self) -> list[str]:
        """Of `encnet train`."""
        return [self.recipe, *(f"--{name.replace('_', '-')}={value}" for name, value in self.values.items())]

    @property
    def config(self) -> RunConfig:
        """What they make of the recipe. Raises InputError for what it has not."""
        return recipe_config(self.recipe, self.values)


def steps_per_s(times: Mapping[int, float], warm: int) -> float:
    """From the end of step `warm` to the end of the last.

    `times`: steps done -> when that was so, in seconds since the epoch, on rank 0.
    """
    last = max(times)
    return (last - warm) / (times[last] - times[warm])
