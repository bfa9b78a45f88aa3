"""The errors of the pipeline: what the user got wrong, and what happened at run time.

`InputError` is a `ValueError`: what was asked for is wrong, nothing was started, exit code 2.
`PipelineError` is for what happened while running: exit code 1. All of them survive pickling, since Ray carries
them from a worker to the driver.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What was asked for is wrong. The message names what, which value, and what to do. Exit code 2."""


class PipelineError(Exception):
    """Something failed at run time. Exit code 1."""


class StorageError(PipelineError):
    """Object storage or the file system did not do what was asked, retries included."""


class DataError(PipelineError):
    """A stored sample is not what its index says, or can't be decoded. Names the shard and the key."""


class TrainingError(PipelineError):
    """A training run failed. Says where its last checkpoint is and how to go on."""


class Diverged(TrainingError):
    """The loss or the gradient is not finite any more: with the same settings it would come to that again."""


class TrackingError(PipelineError):
    """The MLflow server refused or did not answer."""


class Interrupted(BaseException):
    """A signal asked for the end. Like KeyboardInterrupt no error, so that nothing that handles errors holds it up."""

    def __init__(self, signal_number: int, message: str = "interrupted") -> None:
        super().__init__(signal_number, message)
        self.exit_code = 128 + signal_number
        """What a shell says of a process that the signal ended: 130 of Ctrl-C, 143 of SIGTERM."""

    def __str__(self) -> str:
        return str(self.args[1])


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened: what fits into a message of one line."""
    return (str(error).splitlines() or [""])[0][:300]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
