"""One module per source layout: a data set folder, or a generator -> samples."""

from __future__ import annotations

from pipeline.datasets import (
    ade20k,
    camvid,
    cityscapes,
    coco_stuff,
    context_scenes,
    folder,
    pascal_context,
    voc2012,
)
from pipeline.datasets.layout import Layout, Request, Source, SplitSource
from pipeline.errors import InputError, did_you_mean

__all__ = ["LAYOUTS", "Layout", "Request", "Source", "SplitSource", "find_layout"]

LAYOUTS = {
    layout.name: layout
    for layout in (
        ade20k.LAYOUT,
        camvid.LAYOUT,
        camvid.ORIGINAL,
        cityscapes.LAYOUT,
        coco_stuff.LAYOUT,
        context_scenes.LAYOUT,
        folder.LAYOUT,
        pascal_context.LAYOUT_59,
        pascal_context.LAYOUT_60,
        voc2012.LAYOUT,
        voc2012.AUGMENTED,
    )
}


def find_layout(name: str) -> Layout:
    """The layout of that name. InputError naming the nearest one when there is none."""
    if name not in LAYOUTS:
        raise InputError(f"layout: {name!r} is not known: {did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]
