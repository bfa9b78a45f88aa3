"""One module per source layout: a data set folder, or a generator -> samples."""

from __future__ import annotations

from pipeline.datasets import camvid, context_scenes
from pipeline.datasets.layout import Layout, Request, Source, SplitSource
from pipeline.errors import InputError, did_you_mean

__all__ = ["LAYOUTS", "Layout", "Request", "Source", "SplitSource", "find_layout"]

LAYOUTS = {layout.name: layout for layout in (camvid.LAYOUT, context_scenes.LAYOUT)}


def find_layout(name: str) -> Layout:
    """The layout of that name. InputError naming the nearest one when there is none."""
    if name not in LAYOUTS:
        raise InputError(f"layout: {name!r} is not known: {did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]
