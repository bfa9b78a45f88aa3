"""Bilinear interpolation along one axis, as F.interpolate does it, in its parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """One axis of a bilinear resampling: output i is the sum over t of weights[t, i] * input[indices[t, i]]."""

    indices: Tensor
    """(2, outputs) int64."""
    weights: Tensor
    """(2, outputs) float64."""

    def apply(self, maps: Tensor, dim: int) -> Tensor:
        """Resample one dimension of floating point maps."""
        shape = [2] + [1] * maps.dim()
        shape[1 + dim] = -1
        indices, weights = self.indices.to(maps.device), self.weights.to(maps).reshape(shape)
        result = maps.index_select(dim, indices[0]).mul_(weights[0])
        if self.weights[1].any():
            result.addcmul_(maps.index_select(dim, indices[1]), weights[1])
        return result


def positions(inputs: int, outputs: int, align_corners: bool) -> Tensor:
    """(outputs) float64: where each output lies among the inputs, as in F.interpolate."""
    places = torch.arange(outputs, dtype=torch.float64)
    if align_corners:
        return places * ((inputs - 1) / max(1, outputs - 1))
    return ((places + 0.5) * (inputs / outputs) - 0.5).clamp(0, inputs - 1)


def taps_at(places: Tensor, inputs: int) -> Taps:
    """The two inputs around each place (N), and their weights."""
    lower = places.floor()
    upper_weight = places - lower
    indices = torch.stack([lower, lower + 1]).long().clamp(max=inputs - 1)
    return Taps(indices, torch.stack([1 - upper_weight, upper_weight]))
