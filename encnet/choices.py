"""Values picked from a list, and what to say of one that isn't on it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check that a value is one of the choices, and of its type: 8.0 and True are not 8 and 1.

    Raises:
        ValueError: it isn't; the message names the nearest choice, or all of them.
    """
    choices = list(choices)
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise ValueError(f"{name}: {value!r} is not a choice: {nearest(value, choices)}")


def nearest(value: Any, choices: Iterable[Any]) -> str:
    """Return a remedy: "did you mean 'x'?" where a choice is near, else "choose from x, y"."""
    known = [str(choice) for choice in choices]
    near = get_close_matches(str(value), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
