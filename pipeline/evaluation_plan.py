"""How a model is evaluated, what tells one evaluation from another, and the chunks its work is cut into: no effects."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.predict_model import Options

PIXELS_A_CHUNK = 16_000_000
"""That the network sees, all scales and flips together: seconds of a GPU, some minutes of a core."""
SAMPLES_A_CHUNK = 64
LEAST_CHUNKS = 16
"""Of a split with as many samples: small ones are shared among workers too."""
_FORMAT = 1
"""Of what is counted: another one makes another evaluation."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is evaluated."""

    data: str
    """URI of the data set."""
    split: str = "val"
    scales: tuple[float, ...] = (1.0,)
    """Image scales whose probabilities are averaged."""
    flip: bool = False
    """Average with the mirrored image."""
    crop_size: int = 0
    """Side of the sliding window; 0: the whole image at once."""
    batch_size: int = 4
    """Images of one size that are predicted together; scores depend on it by rounding only."""
    num_workers: int = 2

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.batch_size < 1:
            raise InputError(f"num_workers: {self.num_workers}, batch_size: {self.batch_size}: must be 1 or more")
        assert self.options  # which are checked when built

    @property
    def options(self) -> Options:
        """What the network's part of it is."""
        return Options(scales=self.scales, flip=self.flip, crop_size=self.crop_size, overlay=False)

    @property
    def identity(self) -> dict[str, object]:
        """What scores depend on besides model and data, in plain values."""
        scales = [float(scale) for scale in self.scales]
        return {"split": self.split, "scales": scales, "flip": self.flip, "crop_size": self.crop_size}

    @property
    def label(self) -> str:
        """The split, and what is not plain: 'val', 'val-x0.75-x1.25-flip-crop480'. Names scores apart."""
        scales = [] if self.scales == (1.0,) else [f"x{scale:g}" for scale in self.scales]
        rest = ["flip"] * self.flip + [f"crop{self.crop_size}"] * bool(self.crop_size)
        return "-".join([self.split, *scales, *rest])


def evaluation_key(weights_digest: str, data_digest: str, protocol: Protocol) -> str:
    """sha256 (hex) of all that scores depend on: two evaluations of one key may use each other's results."""
    facts = [_FORMAT, weights_digest, data_digest, protocol.identity]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def count_chunks(width: NDArray[np.integer], height: NDArray[np.integer], protocol: Protocol) -> int:
    """How many chunks a split of images of these sizes is cut into: at least one, at most one for each.

    Chunk k is `World(k, count).share(len(width))`. It depends on what the evaluation's key does alone, so that any
    number of workers can go on with it.
    """
    views = sum(scale**2 for scale in protocol.scales) * (2 if protocol.flip else 1)
    pixels = views * float(np.dot(width.astype(np.float64), height))
    wanted = max(math.ceil(pixels / PIXELS_A_CHUNK), math.ceil(len(width) / SAMPLES_A_CHUNK), LEAST_CHUNKS)
    return max(1, min(len(width), wanted))
