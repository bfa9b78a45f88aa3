"""Interpolation in its parts against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from encnet.resampling import positions, taps_at


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("length", "out_length"), [(4, 32), (5, 33), (1, 7), (6, 1), (7, 3), (3, 3)])
def test_taps_interpolate_as_torch_does(length: int, out_length: int, aligned: bool) -> None:
    line = torch.randn(length, dtype=torch.float64)
    expected = F.interpolate(line[None, None], size=out_length, mode="linear", align_corners=aligned)[0, 0]
    taps = taps_at(positions(length, out_length, aligned), length)
    torch.testing.assert_close(taps.apply(line, dim=0), expected)
