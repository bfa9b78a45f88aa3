"""Samples that can't be decoded: a stated few are replaced, counted and named; one more is an error.

Bad is what the indexed bytes themselves are. Bytes that differ from the index are not: they are a fault of the store
or of the way from it, other readers may get other bytes, and so no number of them is let pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.errors import DataError

_SUBSTITUTE_STREAM = 2
_LOG = logging.getLogger(__name__)


class BadSample(DataError):
    """The bytes of a sample are those that were indexed, and can't be decoded. Names the shard and the key."""


def substitutes(seed: int, epoch: int, sample: int, num_samples: int) -> Iterator[int]:
    """All other samples of the split, each once: the first that can be decoded takes the place of a bad `sample`.

    A function of its arguments alone, so that the global batch is the same for every number of ranks, thread and
    resume. Another sample, rather than one with all labels ignored, since that would still enter BatchNorm's
    statistics and tell the loss on class presence that its picture shows none. One that depends on the sample, rather
    than the next in the order, since lanes are on different ranks.
    """
    bits = np.random.Philox(np.random.SeedSequence((seed, epoch, sample, _SUBSTITUTE_STREAM)))
    first = int(bits.random_raw()) % max(num_samples - 1, 1)
    for number in range(num_samples - 1):
        yield (sample + 1 + (first + number) % (num_samples - 1)) % num_samples


class BadSamples:
    """Those met so far, each once, in the order in which they were met."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: dict[str, None] = {}

    @property
    def found(self) -> list[str]:
        """A line for each: shard, key and what is wrong with it."""
        return list(self._found)

    def add(self, faults: Iterable[str]) -> None:
        """Take note of bad samples, new ones or not. Raises DataError when there are more than the limit."""
        for fault in faults:
            if fault in self._found:
                continue
            self._found[fault] = None
            if len(self._found) > self.limit:
                raise too_many(self.found, self.limit)
            _LOG.warning("%s: another sample takes its place (%d of at most %d)", fault, len(self._found), self.limit)


def too_many(faults: list[str], limit: int) -> DataError:
    """The error for more bad samples than the limit: names the last."""
    allowed = f"; with it {len(faults)} samples are bad, and data.max_bad_samples allows {limit}" if limit else ""
    return DataError(f"{faults[-1]}{allowed}")
