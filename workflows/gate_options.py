"""The options for what a candidate must show to become champion: --min-gain and so on, a field of the gates each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InputError
from pipeline.gates import GatesConfig

_ADAPTER = TypeAdapter(GatesConfig)


def gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of the gates, --min-gain for min_gain, help from its docstring."""
    for name, entry in reversed(_ADAPTER.json_schema()["properties"].items()):
        text = f"{' '.join(entry['description'].split())}  [default: {entry['default']}]"
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text)(command)
    return command


def read_gates(options: Mapping[str, Any]) -> GatesConfig:
    """The gates that options by these names stand for; None is one that was not given. Raises InputError."""
    try:
        return _ADAPTER.validate_python({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        from pipeline.config import explain  # imports torch

        raise InputError(explain(error)) from None
