"""What is counted of the samples of a split: by one worker, joined over all of them, stored without pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

import encnet
from pipeline.bootstrap import Counts, mean_iou
from pipeline.calibration import Calibration
from pipeline.errors import PipelineError, first_line

NUM_BINS = 15
"""Of calibration."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """The counts of n samples, C classes."""

    sample_ids: NDArray[np.int64]
    """(n): rows of the split's index."""
    counts: Counts
    """(n, 3, C) int64: `bootstrap.class_counts` of each."""
    matrix: NDArray[np.int64]
    """(C, C): pixels, rows are the truth."""
    boundary_total: NDArray[np.float64]
    """(C): sums of images' boundary F-scores."""
    boundary_images: NDArray[np.int64]
    """(C): of how many images."""
    reliability: NDArray[np.float64]
    """(3, bins): pixels, those that are right, and the sum of their confidences."""
    not_finite: NDArray[np.int64]
    """The samples of which a probability is no number."""
    times_ms: NDArray[np.float64]
    """Of an image, one for each batch; the first one of a process is left out."""
    peak_bytes: NDArray[np.int64]
    """The most memory that a worker's GPU held; empty where there was none."""
    devices: NDArray[np.str_]
    """What it was counted on."""

    @property
    def confusion(self) -> encnet.ConfusionMatrix:
        """Of all samples."""
        confusion = encnet.ConfusionMatrix(len(self.matrix))
        confusion.matrix = torch.from_numpy(self.matrix.copy())
        return confusion

    @property
    def boundary(self) -> encnet.BoundaryFScore:
        """The boundary F-scores of the classes."""
        boundary = encnet.BoundaryFScore(len(self.matrix))
        boundary.total, boundary.num_images = self.boundary_total, self.boundary_images
        return boundary

    @property
    def calibration(self) -> Calibration:
        """Confidence against correctness."""
        calibration = Calibration(self.reliability.shape[1])
        calibration.num_pixels, calibration.num_right = self.reliability[:2].astype(np.int64)
        calibration.confidence = self.reliability[2]
        return calibration

    @property
    def latency_ms(self) -> float | None:
        """The median time that an image took; None where only first batches were timed."""
        return float(np.median(self.times_ms)) if self.times_ms.size else None

    @property
    def memory_bytes(self) -> int | None:
        """The most that prediction held on a GPU; None where there was none."""
        return int(self.peak_bytes.max()) if self.peak_bytes.size else None


_ADDED = ("matrix", "boundary_total", "boundary_images", "reliability")
_NAMES = tuple(field.name for field in fields(Tally))


def join_tallies(tallies: Sequence[Tally], num_samples: int) -> Tally:
    """The tally of a whole split, its samples in order. Raises PipelineError unless it has each exactly once."""
    ids = np.concatenate([tally.sample_ids for tally in tallies])
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[order], np.arange(num_samples)):
        raise PipelineError(f"evaluation saw {len(ids)} samples, {len(set(ids.tolist()))} different, of {num_samples}")
    columns = {name: [getattr(tally, name) for tally in tallies] for name in _NAMES}
    joined = {
        name: np.sum(parts, axis=0) if name in _ADDED else np.concatenate(parts) for name, parts in columns.items()
    }
    joined |= {"sample_ids": ids[order], "counts": joined["counts"][order], "devices": np.unique(joined["devices"])}
    return Tally(**joined)


def worst_samples(counts: Counts, most: int) -> list[tuple[int, float]]:
    """The samples with the lowest mIoU over the classes in their own truth, and that mIoU, the worst first.

    Those without a labelled pixel have none and are left out.
    """
    scores = mean_iou(counts)
    order = np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]
    return [(int(sample), float(scores[sample])) for sample in order[:most]]


def to_npz(tally: Tally) -> bytes:
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **{name: getattr(tally, name) for name in _NAMES})
    return file.getvalue()


def from_npz(data: bytes) -> Tally:
    """The inverse of `to_npz`. Raises ValueError where `data` is none of ours; never runs code from it."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            tally = Tally(**{name: arrays[name] for name in _NAMES})
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"holds no counts of an evaluation: {first_line(error)}") from None
    num, num_classes = len(tally.sample_ids), len(tally.matrix)
    found = (tally.counts.shape, tally.matrix.shape, tally.boundary_total.shape, tally.boundary_images.shape)
    if found != ((num, 3, num_classes), (num_classes, num_classes), (num_classes,), (num_classes,)):
        raise ValueError(f"holds counts whose shapes do not fit: {found}")
    return tally
