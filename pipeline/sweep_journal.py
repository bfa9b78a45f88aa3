"""The journal of a sweep on storage: its configuration, and what became of each trial, as JSON.

<storage>/sweeps/NAME/sweep.json          written when it begins
<storage>/sweeps/NAME/trials/003.json     written when the trial begins, at each validation, and when it ends

From this alone a sweep is resumed. The runs of its trials are kept like all runs, below <storage>/runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.errors import InputError, did_you_mean
from pipeline.storage import ObjectNotFound, Store, open_store, write_patiently
from pipeline.sweep_config import SweepConfig
from pipeline.sweep_plan import Trial

CONFIG = "sweep.json"
_TRIALS = "trials/"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """What is kept of one sweep. A value, like the store that it is on."""

    store: Store

    def exists(self) -> bool:
        """Whether there is a sweep of that name."""
        return self.store.exists(CONFIG)

    def begin(self, config: SweepConfig) -> None:
        """Keep the configuration."""
        write_patiently(lambda: self.store.write(CONFIG, json.dumps(config.to_dict(), indent=1).encode()))

    def config(self) -> SweepConfig:
        """The configuration as it was kept. Raises ObjectNotFound."""
        return SweepConfig.from_dict(json.loads(self.store.read(CONFIG)))

    def keep(self, trial: Trial) -> None:
        """Keep what is known of a trial, in place of what was."""
        write_patiently(lambda: self.store.write(_key(trial.number), json.dumps(trial.to_dict()).encode()))

    def trial(self, number: int) -> Trial:
        """What is known of a trial. Raises ObjectNotFound."""
        return Trial.from_dict(json.loads(self.store.read(_key(number))))

    def trials(self) -> list[Trial]:
        """All trials that were begun, in their order."""
        found = [Trial.from_dict(json.loads(self.store.read(key))) for key in self.store.list(_TRIALS)]
        return sorted(found, key=lambda one: one.number)


def open_journal(storage: str, name: str) -> Journal:
    """The journal of the sweep called `name` below `storage`, a URI."""
    return Journal(store=open_store(f"{sweeps_uri(storage)}/{name}"))


def sweeps_uri(storage: str) -> str:
    """Where the sweeps are on a storage."""
    return f"{storage.rstrip('/')}/sweeps"


def stored_sweep(storage: str, name: str) -> SweepConfig:
    """The configuration that a sweep was started with. Raises InputError where there is no such sweep."""
    try:
        return open_journal(storage, name).config()
    except ObjectNotFound:
        known = {key.split("/")[0] for key in open_store(sweeps_uri(storage)).list() if key.endswith(f"/{CONFIG}")}
        remedy = did_you_mean(name, known) if known else "no sweep has been started there"
        raise InputError(f"resume: no sweep {name!r} in {sweeps_uri(storage)}: {remedy}") from None


def _key(number: int) -> str:
    return f"{_TRIALS}{number:03d}.json"
