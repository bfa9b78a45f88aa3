"""The geometry of windows: they cover everything once, whatever their number."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from encnet.windows import Axis, window_starts


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 100))
def test_windows_cover_everything_and_stay_inside(length: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    assert all(0 < b - a <= stride for a, b in pairwise(starts))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_shares_add_up_to_the_resized_whole(length: int, scaled: int, window: int, stride: int, align: bool) -> None:
    window = min(window, scaled)
    axis = Axis(length, scaled, window, min(stride, window), align)
    whole = torch.randn(scaled, dtype=torch.float64)
    total = torch.zeros(length, dtype=torch.float64)
    for start in axis.starts:
        pixels = axis.pixels(start)
        total[pixels.start : pixels.stop] += axis.share(start, pixels).apply(whole[start : start + window], 0)
    expected = F.interpolate(whole[None, None], size=length, mode="linear", align_corners=align)[0, 0]
    torch.testing.assert_close(total, expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_views_are_parts_of_the_resized_image(length: int, scaled: int, window: int, align: bool) -> None:
    window = min(window, scaled)
    axis = Axis(length, scaled, window, max(1, window // 2), align)
    image = torch.randn(length, dtype=torch.float64)
    resized = F.interpolate(image[None, None], size=scaled, mode="linear", align_corners=align)[0, 0]
    for start in axis.starts:
        pixels, taps = axis.view(start)
        torch.testing.assert_close(taps.apply(image[pixels], 0), resized[start : start + window])
