"""The state folder: where everything of the stack lives, what it remembers, and the lock around changing it.

<home>/stack.lock            held while a stack is brought up or down
<home>/stack/state.json      ports, processes: see `State`
<home>/stack/env             the settings for the stack's users
<home>/stack/logs/           one log a part
<home>/stack/{s3,mlflow,ray} the parts' own data, keys and token
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.local.errors import StackError, StackInputError
from infra.local.processes import ProcessId

# Linux allows 107 bytes for the name of a unix socket, macOS 103; Ray's longest is
# /session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.1234567 below its own folder.
SOCKET_PATH_BYTES = 103
RAY_SOCKET_BYTES = 72


class PartState(BaseModel):
    """What is remembered of one part."""

    model_config = ConfigDict(extra="forbid")

    ports: dict[str, int] = {}
    """Name of the port -> its number; kept while the part is down."""
    process: ProcessId | None = None
    """The process last started, None once it has been stopped."""


class State(BaseModel):
    """What is remembered of the stack between commands."""

    model_config = ConfigDict(extra="forbid")

    parts: dict[str, PartState] = {}
    num_cpus: int | None = None
    """CPUs that Ray was last told it has."""
    ray_folder: Path | None = None
    """Where Ray keeps its sessions and sockets, when the state folder's own path is too long for sockets."""

    def part(self, name: str) -> PartState:
        """Return what is remembered of the part `name`, a blank entry the first time."""
        return self.parts.setdefault(name, PartState())


@dataclass(frozen=True)
class Folder:
    """The state folder under `home`. Nothing is created before `create`."""

    home: Path

    @property
    def root(self) -> Path:
        """The stack's own folder; all that `down --delete-data` deletes."""
        return self.home / "stack"

    @property
    def state_file(self) -> Path:
        """The file behind `State`."""
        return self.root / "state.json"

    @property
    def environment_file(self) -> Path:
        """The settings for the stack's users."""
        return self.root / "env"

    def part(self, name: str) -> Path:
        """Return the data folder of one part: "s3", "mlflow" or "ray"."""
        return self.root / name

    def log(self, name: str) -> Path:
        """Return the log of one part."""
        return self.root / "logs" / f"{name}.log"

    def create(self) -> None:
        """Create what is missing, readable by its owner only. Raises StackInputError where that can't be."""
        self._make(self.home, self.root, *(self.part(name) for name in ("logs", "s3", "mlflow", "ray")))

    def _make(self, *folders: Path) -> None:
        try:
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StackInputError(
                f"ENCNET_HOME: {self.home}: can't be used as state folder ({error.strerror}): set it to another"
            ) from error

    def load(self) -> State:
        """Return the remembered state, a blank one if there is none. Raises StackInputError if it can't be read."""
        try:
            return State.model_validate_json(self.state_file.read_bytes())
        except FileNotFoundError:
            return State()
        except (OSError, ValidationError) as error:
            what = error.strerror if isinstance(error, OSError) else "damaged"
            raise StackInputError(
                f"{self.state_file}: {what}: remove this file and run the command again; "
                "data is kept, and what still runs is found again"
            ) from error

    def save(self, state: State) -> None:
        """Write `state`, whole or not at all."""
        write_private(self.state_file, state.model_dump_json(indent=2))

    def delete(self, state: State) -> None:
        """Delete the stack's data, logs, keys and state, and `home` too if nothing else is in it."""
        shutil.rmtree(self.root, ignore_errors=False)
        if state.ray_folder is not None:
            shutil.rmtree(state.ray_folder, ignore_errors=True)
        (self.home / "stack.lock").unlink(missing_ok=True)
        if not any(self.home.iterdir()):
            self.home.rmdir()

    @contextmanager
    def locked(self, on_wait: Callable[[], None], timeout_s: float = 180.0) -> Iterator[None]:
        """Hold the stack's lock: one `up` or `down` at a time. `on_wait` is called once if another has it.

        Raises StackError after `timeout_s` of waiting, StackInputError if the state folder can't be written to.
        """
        self._make(self.home)
        path = self.home / "stack.lock"
        with _opened(path) as file:
            if not _try_lock(file.fileno()):
                on_wait()
                _wait_for_lock(file.fileno(), path, timeout_s)
            yield


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a")
    except OSError as error:
        raise StackInputError(
            f"ENCNET_HOME: {path.parent}: can't be used as state folder ({error.strerror}): set it to another"
        ) from error


def _wait_for_lock(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise StackError(f"another `encnet stack` has held {path} for {timeout_s:.0f} s: wait for it to end")
        time.sleep(0.2)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, readable by its owner only (mkstemp's mode 0600)."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def ray_folder(folder: Folder, state: State) -> Path:
    """Return where Ray keeps its sessions: in the state folder, or in a short one under /tmp if sockets need it."""
    own = folder.part("ray")
    if len(os.fsencode(own)) + RAY_SOCKET_BYTES <= SOCKET_PATH_BYTES:
        return own
    if state.ray_folder is None or not _is_ours(state.ray_folder):
        state.ray_folder = Path(tempfile.mkdtemp(prefix="encnet-", dir="/tmp"))
    return state.ray_folder


def _is_ours(path: Path) -> bool:
    """Whether `path` is a folder of this user: /tmp is emptied now and then, and anybody may make folders there."""
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
