"""The image scales that a model is used at, as an option of several verbs."""

from __future__ import annotations

import click

scales_option = click.option(
    "--scales", default="1.0", show_default=True, help="Image scales to average over, e.g. 0.75,1,1.25."
)


def parse_scales(text: str) -> tuple[float, ...]:
    """'0.75,1' -> (0.75, 1.0). Raises InputError."""
    from pipeline.errors import InputError

    try:
        return tuple(float(scale) for scale in text.split(","))
    except ValueError:
        raise InputError(f"scales: {text!r}: write numbers with commas between, e.g. 0.75,1,1.25") from None
