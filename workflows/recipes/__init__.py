"""Recipes: functions that return a whole configuration. Each docstring gives command, hardware, time and score."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import RunConfig
from workflows.recipes.camvid import camvid_r18
from workflows.recipes.context_scenes import context_scenes_r18

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "context_scenes_r18": context_scenes_r18,
    "camvid_r18": camvid_r18,
}
"""The recipes by name."""
