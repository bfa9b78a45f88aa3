"""Sliding windows over images at several scales: where they lie, and how their maps add up in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from encnet.resampling import Taps, positions, taps_at

PART_ELEMENTS = 2**22
"""Of what a window adds to an image at a time: 16 MiB, which an allocator reuses; fresh memory takes longer to get."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover `length`, the last one moved back to end with it."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


@dataclass(frozen=True)
class Axis:
    """The rows or the columns of an image, at one scale, cut into windows."""

    length: int
    """Of the image, in pixels."""
    scaled: int
    """Of the image at the scale."""
    window: int
    """Of a window, at most `scaled`."""
    stride: int
    """From one window to the next."""
    align_corners: bool
    """How bilinear resizing, between the image and the scale, treats the corners."""

    @cached_property
    def starts(self) -> list[int]:
        """Where each window begins, at the scale."""
        return window_starts(self.scaled, self.window, self.stride)

    def pixels(self, start: int) -> range:
        """The image's pixels in which the window that begins at `start` has a share."""
        first = torch.searchsorted(self._positions, start - 1.0, right=True)
        return range(int(first), int(torch.searchsorted(self._positions, float(start + self.window))))

    def share(self, start: int, pixels: range, weight: float = 1.0) -> Taps:
        """From a window to some of its `pixels`: the shares of all windows add up to `weight` times their mean."""
        indices, weights = taps_at(self._positions[pixels.start : pixels.stop], self.scaled)
        inside = (indices >= start) & (indices < start + self.window)
        weights = torch.where(inside, weight * weights / self._overlaps[indices], 0.0)
        return Taps((indices - start).clamp(0, self.window - 1), weights)

    def view(self, start: int) -> tuple[slice, Taps]:
        """The image's pixels that a window looks at, and how they become the window."""
        places = positions(self.length, self.scaled, self.align_corners)[start : start + self.window]
        indices, weights = taps_at(places, self.length)
        first = int(indices[0, 0])
        return slice(first, int(indices[1, -1]) + 1), Taps(indices - first, weights)

    @cached_property
    def _positions(self) -> Tensor:
        return positions(self.scaled, self.length, self.align_corners)

    @cached_property
    def _overlaps(self) -> Tensor:
        """(scaled): how many windows see each place."""
        counts = torch.zeros(self.scaled, dtype=torch.float64)
        for start in self.starts:
            counts[start : start + self.window] += 1
        return counts


@dataclass(frozen=True)
class Views:
    """Through which windows images are seen."""

    grids: list[tuple[Axis, Axis]]
    """Rows and columns at each scale."""
    flip: bool
    """Each window also mirrored."""
    batch: int
    """How many windows are taken together."""

    @property
    def plain(self) -> bool:
        """Whether the image itself is all there is to see."""
        one_grid = len(self.grids) == 1 and not self.flip
        return one_grid and all(axis.length == axis.scaled == axis.window for axis in self.grids[0])

    def bands(
        self, classify: Callable[[Tensor], Tensor], images: Tensor, stripe: int
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Average what `classify` says of each window.

        Windows are taken in the order in which they begin in the image, whatever their scale: the rows above the next
        one are finished. So never more rows are held than the tallest window spans in the image.

        Args:
            classify: (windows, 3, h, w) -> (windows, h, w, C).
            images: (B, 3, H, W).
            stripe: how many columns are done together; windows that reach into two stripes are classified for each.

        Yields:
            Rows and columns of the images, and their (B, rows, columns, C); together they cover the images.
        """
        height, width = images.shape[2:]
        steps = [(grid[0].pixels(top), top, grid) for grid in self.grids for top in grid[0].starts]
        steps.sort(key=lambda step: step[0].start)
        for left in range(0, width, stripe):
            columns = range(left, min(left + stripe, width))
            sums: Tensor | None = None
            first = 0
            for rows, top, grid in steps:
                if sums is not None and rows.start > first:
                    yield slice(first, rows.start), _slice(columns), sums[:, : rows.start - first]
                    sums = sums[:, rows.start - first :]
                    first = rows.start
                for image, part, across, share in self._shares(classify, images, grid, top, columns):
                    sums = _extend(sums, (len(images), rows.stop - first, len(columns)), share)
                    sums[image, _slice(part, first), _slice(across, left)] += share
            assert sums is not None
            yield slice(first, height), _slice(columns), sums

    def _shares(
        self,
        classify: Callable[[Tensor], Tensor],
        images: Tensor,
        grid: tuple[Axis, Axis],
        top: int,
        columns: range,
    ) -> Iterator[tuple[int, range, range, Tensor]]:
        """The shares of a row of windows in the mean: number of the image, its rows and columns, (rows, columns, C)."""
        down, along = grid
        mirrorings = (False, True) if self.flip else (False,)
        weight = 1 / (len(self.grids) * len(mirrorings))
        lefts = [left for left in along.starts if _common(along.pixels(left), columns)]
        places = [(left, image, mirrored) for left in lefts for image in range(len(images)) for mirrored in mirrorings]
        for begin in range(0, len(places), self.batch):
            batch = places[begin : begin + self.batch]
            seen = torch.stack([_see(images[image], grid, top, left, mirrored) for left, image, mirrored in batch])
            for (left, image, mirrored), window in zip(batch, classify(seen), strict=True):
                across = _common(along.pixels(left), columns)
                horizontal = along.share(left, across)
                window = window.flip(1) if mirrored else window
                for rows in _parts(down.pixels(top), PART_ELEMENTS // (len(across) * window.shape[2])):
                    share = down.share(top, rows, weight).apply(window, dim=0)
                    yield image, rows, across, horizontal.apply(share, dim=1)


def _parts(whole: range, length: int) -> Iterator[range]:
    length = max(1, length)
    return (whole[start : start + length] for start in range(0, len(whole), length))


def _see(image: Tensor, grid: tuple[Axis, Axis], top: int, left: int, mirrored: bool) -> Tensor:
    """(3, H, W) -> the window (3, h, w) at a scale."""
    (rows, vertical), (columns, horizontal) = grid[0].view(top), grid[1].view(left)
    exact = image[:, rows, columns].to(torch.promote_types(image.dtype, torch.float32))
    window = horizontal.apply(vertical.apply(exact, dim=1), dim=2).to(image.dtype)
    return window.flip(2) if mirrored else window


def _extend(sums: Tensor | None, size: tuple[int, int, int], like: Tensor) -> Tensor:
    """The sums with rows of zeros below them, up to `size` (B, rows, columns)."""
    if sums is None:
        return like.new_zeros(*size, like.shape[2])
    missing = size[1] - sums.shape[1]
    return F.pad(sums, (0, 0, 0, 0, 0, missing)) if missing > 0 else sums


def _slice(whole: range, origin: int = 0) -> slice:
    return slice(whole.start - origin, whole.stop - origin)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
