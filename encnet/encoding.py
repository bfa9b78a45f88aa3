"""The Encoding layer: a codebook of residuals, exact, in memory linear in the number of descriptors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoding(nn.Module):
    """Aggregate residuals of descriptors to learned codewords (Zhang et al., CVPR 2018, section 3.1).

    With r_ik = x_i - d_k and a_ik = softmax_k(scale_k * ||r_ik||^2), the output is e_k = sum_i a_ik * r_ik: a sum over
    the descriptors, not a mean. No B x N x K x C tensor is built: the distances are expanded to
    ||x||^2 - 2 x d^T + ||d||^2 and the sum to A^T X - (sum_i a_i) D, which needs O(B N K) memory.

    The work is done in float32 under autocast and for half precision inputs, in float64 for float64 inputs.

    Args:
        channels: C, the length of a descriptor.
        num_codes: K, the number of codewords.

    Attributes:
        codewords: (K, C), initialised U(-b, b) with b = 1 / sqrt(K * C).
        scale: (K), the negated smoothing factor -s_k, initialised U(-1, 0).
    """

    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        if channels < 1 or num_codes < 1:
            raise ValueError(f"Encoding: channels={channels}, num_codes={num_codes}: both must be at least 1")
        self.channels = channels
        self.num_codes = num_codes
        bound = (num_codes * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Encode descriptors.

        Args:
            x: (B, N, C) descriptors or a (B, C, H, W) feature map.

        Returns:
            (B, K, C), in float32 (float64 for float64 inputs), or in the dtype of half precision parameters.

        Raises:
            ValueError: x has another number of dimensions or of channels.
        """
        with torch.autocast(x.device.type, enabled=False):
            encoded = self._encode(self._descriptors(x))
        stored = self.codewords.dtype
        return encoded.to(stored) if stored in (torch.float16, torch.bfloat16) else encoded

    def _descriptors(self, x: Tensor) -> Tensor:
        """View x as (B, N, C)."""
        if x.dim() == 4:
            x = x.flatten(2).transpose(1, 2)
        if x.dim() != 3 or x.shape[2] != self.channels:
            raise ValueError(
                f"Encoding: input of shape {tuple(x.shape)} does not fit channels={self.channels}: "
                "pass (B, N, C) or (B, C, H, W)"
            )
        return x

    def _encode(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(x.dtype, self.codewords.dtype), torch.float32)
        codewords = self.codewords.to(dtype)  # (K, C)
        # Residuals don't change when X and D move together; near the codewords the expanded square loses no digits.
        center = codewords.detach().mean(dim=0)  # (C)
        x, codewords = x.to(dtype) - center, codewords - center
        cross = x @ codewords.T  # (B, N, K)
        square_x = x.square().sum(dim=2, keepdim=True)  # (B, N, 1)
        square_d = codewords.square().sum(dim=1)  # (K)
        distances = square_x - 2 * cross + square_d  # (B, N, K)
        assignment = torch.softmax(self.scale.to(dtype) * distances, dim=2)  # (B, N, K)
        mass = assignment.sum(dim=1).unsqueeze(2)  # (B, K, 1)
        return assignment.transpose(1, 2) @ x - mass * codewords  # (B, K, C)

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"channels={self.channels}, num_codes={self.num_codes}"
