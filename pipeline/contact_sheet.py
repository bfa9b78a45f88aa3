"""Many samples on one picture, each beside itself with its labels laid over it, and what the colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from pipeline.lettering import GAP, LINE, legend, paper, write
from pipeline.report import Palette, colorize
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import Image, Label

TILE_HEIGHT = 240
_MAX_TILE_WIDTH = 480
_OPACITY = 0.55


def overlay(image: Image, label: Label, palette: Palette) -> Image:
    """(H, W, 3) with the classes' colours laid over it; what is ignored keeps the image's own."""
    mixed = (1 - _OPACITY) * image + _OPACITY * colorize(label, palette)
    return np.where((label == IGNORE_INDEX)[..., None], image, np.rint(mixed).astype(np.uint8))


def contact_sheet(
    samples: Iterable[tuple[str, Image, Label]], classes: Sequence[str], palette: Palette, columns: int = 3
) -> Image:
    """(H, W, 3): a tile per (key, image, label), `columns` in a row, and a legend of the classes that are in them."""
    tiles, present = [], np.zeros(256, bool)
    for key, image, label in samples:
        tiles.append(_tile(key, image, label, palette))
        present[np.unique(label)] = True
    width = max(tile.shape[1] for tile in tiles)
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    blank = paper(tiles[0].shape[0], width)
    grid = [np.hstack([_widen(tile, width) for tile in row] + [blank] * (len(rows[0]) - len(row))) for row in rows]
    names = [(classes[place], palette[place]) for place in np.flatnonzero(present[: len(classes)]).tolist()]
    return np.vstack([*grid, legend(names, grid[0].shape[1])])


def _tile(key: str, image: Image, label: Label, palette: Palette) -> Image:
    """The image, and itself under its labels, with the key above; of one height for all samples."""
    scale = min(TILE_HEIGHT / image.shape[0], _MAX_TILE_WIDTH / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    shown = np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8
    )
    ids = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    pair = np.hstack([shown, overlay(shown, ids, palette)])
    tile = paper(LINE + TILE_HEIGHT + GAP, pair.shape[1] + 2 * GAP)
    tile[LINE : LINE + pair.shape[0], GAP : GAP + pair.shape[1]] = pair
    write(tile, f"{key}  {image.shape[1]}x{image.shape[0]}", GAP, LINE - 7)
    return tile


def _widen(tile: Image, width: int) -> Image:
    return np.hstack([tile, paper(tile.shape[0], width - tile.shape[1])])
