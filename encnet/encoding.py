"""The Encoding layer: a codebook of residuals, exact, in memory linear in the number of descriptors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Encoding(nn.Module):
    """Aggregate residuals of descriptors to learned codewords (Zhang et al., CVPR 2018, section 3.1).

    With r_ik = x_i - d_k and a_ik = softmax_k(scale_k * ||r_ik||^2), the output is e_k = sum_i a_ik * r_ik: a sum over
    the descriptors, not a mean. No B x N x K x C tensor is built: the distances are expanded to
    ||x||^2 - 2 x d^T + ||d||^2 and the sum to A^T X - (sum_i a_i) D. Forward and backward take O(B N K) memory and one
    copy of the descriptors.

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
        # Autocast knows no tensors that have shapes only.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            encoded, _, _ = _Encode.apply(self._descriptors(x), self.codewords, self.scale)
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

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"channels={self.channels}, num_codes={self.num_codes}"


class _Encode(torch.autograd.Function):
    """(B, N, C) descriptors, (K, C) codewords and (K) scale -> (B, K, C), with a backward written by hand.

    Left to autograd the same products would keep, and differentiate, five more B x N x K and two more B x N x C.
    """

    @staticmethod
    def forward(x: Tensor, codewords: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, codewords, _ = _center(x, codewords)
        distances = _squared_distances(x, codewords)  # (B, N, K)
        assignment = torch.softmax(scale.to(x.dtype) * distances, dim=2)  # (B, N, K)
        # Shares this small change no sum, but as denormal numbers they make the products ten times as slow.
        assignment = F.threshold(assignment, 1e-30, 0, inplace=True)
        mass = assignment.sum(dim=1).unsqueeze(2)  # (B, K, 1)
        encoded = assignment.transpose(1, 2) @ x - mass * codewords  # (B, K, C)
        return encoded, assignment, distances

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, assignment, distances = output
        ctx.mark_non_differentiable(assignment, distances)
        ctx.save_for_backward(*inputs, assignment, distances)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu" if grad.is_meta else grad.device.type, enabled=False):
            return _gradients(grad, *ctx.saved_tensors)


def _gradients(
    grad: Tensor, x_in: Tensor, codewords_in: Tensor, scale_in: Tensor, assignment: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """With g the gradient of e, r_ik = x_i - d_k, l_ik the softmax's input and w_ik = scale_k * dl_ik:

    dl_ik = a_ik * (g_k r_ik - sum_j a_ij g_j r_ij);  dscale_k = sum_i dl_ik ||r_ik||^2;
    dx_i = sum_k a_ik g_k + 2 w_ik r_ik;  dd_k = -sum_i a_ik g_k + 2 w_ik r_ik.
    """
    x, codewords, dtype = _center(x_in, codewords_in)
    pull = x @ grad.transpose(1, 2) - (grad * codewords).sum(dim=2).unsqueeze(1)  # g_k r_ik, (B, N, K)
    pull -= (assignment * pull).sum(dim=2, keepdim=True)
    grad_logits = pull.mul_(assignment)  # (B, N, K)
    grad_scale = (grad_logits * distances).sum(dim=(0, 1))  # (K)
    twice_w = grad_logits.mul_(2 * scale_in.to(dtype))  # (B, N, K)
    mass = assignment.sum(dim=1).unsqueeze(2)  # (B, K, 1)
    grad_codewords = (
        twice_w.sum(dim=(0, 1)).unsqueeze(1) * codewords
        - twice_w.flatten(0, 1).T @ x.flatten(0, 1)
        - (mass * grad).sum(dim=0)
    )  # (K, C)
    # In the descriptors' own copy, which nobody needs any more, and both sums over k in one product.
    weights = torch.cat([assignment, -twice_w], dim=2)  # (B, N, 2K)
    vectors = torch.cat([grad, codewords.expand_as(grad)], dim=1)  # (B, 2K, C)
    grad_x = x.mul_(twice_w.sum(dim=2, keepdim=True)).baddbmm_(weights, vectors)  # (B, N, C)
    return grad_x.to(x_in.dtype), grad_codewords.to(codewords_in.dtype), grad_scale.to(scale_in.dtype)


def _center(x: Tensor, codewords: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Return copies of both, of at least float32, moved so that the codewords' median in each channel is 0.

    Residuals don't change when X and D move together; near the codewords the expanded square loses no digits. Not the
    mean: one codeword far from the others would draw it away from them.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, codewords.dtype), torch.float32)
    codewords = codewords.to(dtype)
    center = codewords.topk(len(codewords) // 2 + 1, dim=0).values[-1]  # (C); ONNX knows no median
    return x.to(dtype) - center, codewords - center, dtype


def _squared_distances(x: Tensor, codewords: Tensor) -> Tensor:
    """||x||^2 - 2 x d^T + ||d||^2: (B, N, C), (K, C) -> (B, N, K)."""
    square_x = torch.linalg.vector_norm(x, dim=2, keepdim=True).square()  # (B, N, 1)
    square_d = codewords.square().sum(dim=1)  # (K)
    return (x @ codewords.T).mul_(-2).add_(square_x).add_(square_d)
