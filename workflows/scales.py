"""How a model is used on images, as options of several verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

scales_option = click.option(
    "--scales", default="1.0", show_default=True, help="Image scales to average over, e.g. 0.75,1,1.25."
)


def protocol_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --scales, --flip and --crop-size as models are evaluated with."""
    window = "Side of the sliding window; 0: whole images."
    command = click.option("--crop-size", default=0, show_default=True, help=window)(command)
    command = click.option("--flip", is_flag=True, help="Average with the mirrored image.")(command)
    return scales_option(command)


def parse_scales(text: str) -> tuple[float, ...]:
    """'0.75,1' -> (0.75, 1.0). Raises InputError."""
    from pipeline.errors import InputError

    try:
        return tuple(float(scale) for scale in text.split(","))
    except ValueError:
        raise InputError(f"scales: {text!r}: write numbers with commas between, e.g. 0.75,1,1.25") from None
