"""Recipes: functions that return a whole configuration. Each docstring gives command, hardware, time and score.

The FCN twin of each is the same with `--model.arch fcn`.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import RunConfig
from workflows.recipes.ade20k import ade20k_r50, ade20k_r101
from workflows.recipes.camvid import camvid_r18, camvid_r50
from workflows.recipes.cityscapes import cityscapes_r50, cityscapes_r101
from workflows.recipes.context_scenes import context_scenes_r18
from workflows.recipes.pascal_context import pcontext_r50, pcontext_r101
from workflows.recipes.voc2012 import voc2012_r101, voc2012_r101_aug, voc2012_r101_coco

RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        context_scenes_r18,
        camvid_r18,
        camvid_r50,
        pcontext_r50,
        pcontext_r101,
        ade20k_r50,
        ade20k_r101,
        voc2012_r101_coco,
        voc2012_r101_aug,
        voc2012_r101,
        cityscapes_r50,
        cityscapes_r101,
    )
}
"""The recipes by name."""
