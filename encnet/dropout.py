"""Channel dropout whose mask is a function of (seed, step, layer, position in the global batch, channel)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), its constants as signed 64-bit numbers.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


class KeyedDropout2d(nn.Module):
    """Zero whole channels with probability p and scale the others by 1 / (1 - p), in training only.

    With a key (see `set_dropout_key`) the mask is computed from the key alone, so that an image gets the same mask
    whichever rank it is on and however the batch is split. Without one this is torch's dropout2d.

    Args:
        p: probability of dropping a channel, below 1.
        layer: number of this layer in its model; layers of different numbers draw different masks.
    """

    def __init__(self, p: float = 0.1, layer: int = 0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"KeyedDropout2d: p={p} is not a probability below 1: give 0 <= p < 1")
        self.p = p
        self.layer = layer
        # (B,) int64. A tensor only: torch.compile would compile anew for every other step in it.
        self.key: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; B must be the number of positions in the key.

        Raises:
            ValueError: the key is of another batch size.
        """
        if not self.training or self.p == 0:
            return x
        if self.key is None:
            return F.dropout2d(x, self.p)
        if len(self.key) != len(x):
            raise ValueError(
                f"KeyedDropout2d: {len(self.key)} positions in the key, {len(x)} images in the batch: "
                "call set_dropout_key with this batch's positions"
            )
        keep = self.uniform(x.shape[1], x.device) >= self.p  # (B, C)
        return x * keep[:, :, None, None].to(x.dtype) / (1 - self.p)

    def uniform(self, channels: int, device: torch.device) -> Tensor:
        """Return the key's random numbers, (B, channels) float32 in [0, 1)."""
        assert self.key is not None
        state = _mix(self.key.to(device) ^ self.layer)  # (B)
        state = _mix(state[:, None] ^ torch.arange(channels, device=device))  # (B, C)
        return ((state >> 40) & 0xFFFFFF).to(torch.float32) / 2**24

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        return f"p={self.p}, layer={self.layer}"


def set_dropout_key(model: nn.Module, seed: int, step: int, positions: Tensor) -> None:
    """Key every KeyedDropout2d of a model for its next forward passes, until the next call.

    Args:
        seed: the run's seed, a signed 64-bit number.
        step: number of the training step.
        positions: (B,) int64, where this rank's images stand in the global batch (or in the whole order).

    Raises:
        ValueError: positions is not a vector of integers.
    """
    if positions.dim() != 1 or positions.is_floating_point():
        raise ValueError(f"positions: shape {tuple(positions.shape)}, {positions.dtype}: give a (B,) int64 tensor")
    key = _mix(_mix(positions.long() ^ seed) ^ step)
    for module in model.modules():
        if isinstance(module, KeyedDropout2d):
            module.key = key


def _mix(state: Tensor) -> Tensor:
    """SplitMix64's finaliser. The masks make the shifts logical, as int64's are arithmetic."""
    state = state + GAMMA
    state = (state ^ ((state >> 30) & (2**34 - 1))) * MIX_1
    state = (state ^ ((state >> 27) & (2**37 - 1))) * MIX_2
    return state ^ ((state >> 31) & (2**33 - 1))
