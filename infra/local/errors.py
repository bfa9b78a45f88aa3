"""The errors of the local stack: what the user got wrong, and a part that failed."""

from __future__ import annotations


class StackInputError(ValueError):
    """What was asked of the stack is wrong. The message names what, which value, and what to do. Exit code 2."""


class StackError(Exception):
    """A part of the stack failed. One line: what failed, and where its log is. Exit code 1."""
