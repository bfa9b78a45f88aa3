"""The record of an evaluation: what was evaluated how and what came out, as artifacts of its MLflow run; no pickle.

    evaluation/record.json    model, data, protocol and digests, checks, cost
    evaluation/counts.npz     what was counted of each image, and of all
    evaluation/worst/00.jpg   the worst images, the worst first

A run is found again by the tag KEY_TAG: by the digests of weights and data and by the protocol, not by names.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter

from pipeline import tracking
from pipeline.bootstrap import Difference, compare
from pipeline.errors import InputError, TrackingError, first_line
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_tally import Tally, from_npz, to_npz
from pipeline.gates import Measured

KEY_TAG = "evaluation key"
_FOLDER = "evaluation"
_RECORD, _COUNTS, _WORST = "record.json", "counts.npz", "worst"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """One of the images that the model is worst at."""

    key: str
    miou: float
    """Over the classes in its truth."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was evaluated, and how. Scores are in the tally beside it."""

    key: str
    """`evaluation_key` of it."""
    model_uri: str
    """models:/NAME/VERSION, or the folder or file."""
    name: str
    """Of the registered model; '' for another one."""
    version: str
    weights_digest: str
    """sha256 (hex) of the file."""
    parameters: int
    """Of the network, as it predicts."""
    data_name: str
    data_digest: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    protocol: Protocol
    checks: dict[str, str]
    """What was checked -> what is wrong with it, empty where nothing is."""
    worst: tuple[WorstImage, ...]
    commit: str
    at: str
    """When it was finished: UTC, ISO 8601."""

    @property
    def title(self) -> str:
        """The model in words: 'encnet-camvid v3', or the folder's name."""
        return f"{self.name} v{self.version}" if self.name else Path(self.model_uri).resolve().name


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An evaluation as the gates take it, and where it is logged."""

    measured: Measured
    run_id: str
    run_url: str
    miou: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A finished evaluation, in its MLflow run."""

    facts: Facts
    tally: Tally
    run_id: str
    run_url: str

    @cached_property
    def miou(self) -> float:
        """Over the classes in the truth; NaN without any."""
        return self.tally.confusion.mean_iou

    @property
    def recorded(self) -> Recorded:
        """It as the gates take it."""
        measured = Measured(
            classes=self.facts.classes,
            counts=self.tally.counts,
            data_digest=self.facts.data_digest,
            protocol=self.facts.protocol.identity,
            latency_ms=self.tally.latency_ms,
            parameters=self.facts.parameters,
            memory_bytes=self.tally.memory_bytes,
            checks=self.facts.checks,
        )
        return Recorded(measured=measured, run_id=self.run_id, run_url=self.run_url, miou=self.miou)

    def over(self, other: Record) -> Difference:
        """How much better this model is than another one on the same images.

        Raises InputError where fewer than two images are labelled.
        """
        try:
            return compare(other.tally.counts, self.tally.counts)
        except ValueError as error:
            raise InputError(f"--against: {other.facts.model_uri}: {error}") from None


def find_record(key: str) -> Record | None:
    """The newest finished evaluation of that key whose record can be read; None: there is none.

    Raises TrackingError where MLflow fails.
    """
    client = tracking.connect()
    for run_id in tracking.find_finished(client, KEY_TAG, key):
        try:
            facts = read_facts(tracking.fetch_artifact(client, run_id, f"{_FOLDER}/{_RECORD}"))
            tally = from_npz(tracking.fetch_artifact(client, run_id, f"{_FOLDER}/{_COUNTS}"))
        except tracking.Unreachable:
            raise
        except (ValueError, TrackingError) as error:  # of artifacts that were deleted or damaged
            _logger.warning("evaluation run %s is left out: %s", run_id, first_line(error))
            continue
        if facts.key == key:
            return Record(facts=facts, tally=tally, run_id=run_id, run_url=tracking.run_url(client, run_id))
    return None


def read_facts(data: bytes) -> Facts:
    """The facts in record.json. Raises ValueError where it is none of ours."""
    return TypeAdapter(Facts).validate_json(data)


def write_facts(facts: Facts) -> bytes:
    """record.json."""
    return TypeAdapter(Facts).dump_json(facts, indent=1)


def log_record(tracker: tracking.Tracker, facts: Facts, tally: Tally, pictures: Sequence[bytes]) -> None:
    """Store a record in the run of `tracker`; `pictures` are JPEGs of `facts.worst`."""
    with tempfile.TemporaryDirectory(prefix="encnet-evaluation-") as place:
        folder = Path(place)
        files = {_COUNTS: to_npz(tally), _RECORD: write_facts(facts)}
        for name, data in files.items():
            (folder / name).write_bytes(data)
            tracker.log_file(folder / name, _FOLDER)
        for number, picture in enumerate(pictures):
            file = folder / f"{number:02d}.jpg"
            file.write_bytes(picture)
            tracker.log_file(file, f"{_FOLDER}/{_WORST}")


def fetch_pictures(record: Record) -> list[bytes]:
    """The JPEGs of `record.facts.worst`. Raises TrackingError."""
    client = tracking.connect()
    return [
        tracking.fetch_artifact(client, record.run_id, f"{_FOLDER}/{_WORST}/{number:02d}.jpg")
        for number in range(len(record.facts.worst))
    ]
