"""The stack as a whole: up, status, down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.local import mlflow_server, object_store, ports, processes, ray_head, settings
from infra.local.errors import StackError, StackInputError
from infra.local.parts import PORTS, STOP_GRACE_S, TITLES, Part
from infra.local.state import Folder, State, ray_folder, write_private

Event = Literal["waiting", "starting", "up", "already up", "stopped", "not running"]
Watch = Callable[[str, Event, float, str], None]
"""Called with a part's title, what has happened to it, after how many seconds, and a detail such as its address."""

POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """What `status` finds of one part."""

    name: str
    """"s3", "mlflow" or "ray"."""
    title: str
    address: str | None
    """None for a part that was never started."""
    pid: int | None
    """None for a part that does not run."""
    problem: str | None
    """None for a part that is up and answers."""
    log: Path


def _ignore(title: str, event: Event, seconds: float, detail: str) -> None:
    """The watcher of those who do not watch."""


def up(
    home: Path | None = None,
    *,
    num_cpus: int | None = None,
    new_ports: bool = False,
    environ: Mapping[str, str] = os.environ,
    watch: Watch = _ignore,
) -> list[PartStatus]:
    """Bring every part up that is not, wait until each does its work, and write the settings for their users.

    `num_cpus` is how many CPUs Ray has, by default all of the machine's; `new_ports` forgets the ports used before.
    What this call has started is stopped again if it fails or is interrupted.

    Raises StackInputError if what is asked can't be, StackError if a part does not come up.
    """
    folder = Folder(home or settings.home(environ))
    with folder.locked(lambda: watch("stack", "waiting", 0.0, "another `encnet stack` is at work")):
        folder.create()
        state = folder.load()
        down_parts = [name for name in PORTS if not _runs(state, name)]
        _check_wishes(state, down_parts, num_cpus, new_ports=new_ports)
        for name in down_parts:
            _stop_part(folder, state, name)
        _assign_ports(state, down_parts, new_ports=new_ports)
        state.num_cpus = num_cpus or state.num_cpus or os.cpu_count() or 1
        object_store.make_keys(folder)
        ray_head.make_token(folder)
        parts = _plan(folder, state, ray_folder(folder, state), environ)
        _bring_up(folder, state, parts, watch)
        write_private(folder.environment_file, settings.render(_settings(folder, state)))
        return [_part_status(folder, state, part) for part in parts]


def status(home: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> list[PartStatus]:
    """Return what is up and what is not. Starts, stops and writes nothing.

    Raises StackInputError if the state folder is damaged.
    """
    folder = Folder(home or settings.home(environ))
    state = folder.load()
    if any(not state.part(name).ports for name in PORTS):
        return [
            PartStatus(
                name=name, title=TITLES[name], address=None, pid=None, problem="never started", log=folder.log(name)
            )
            for name in PORTS
        ]
    return [_part_status(folder, state, part) for part in _plan(folder, state, folder.part("ray"), environ)]


def down(
    home: Path | None = None,
    *,
    delete_data: bool = False,
    environ: Mapping[str, str] = os.environ,
    watch: Watch = _ignore,
) -> None:
    """Stop what `up` started, and nothing else; with `delete_data`, delete data, logs and keys as well.

    Raises StackInputError for a damaged state file, StackError if a process does not end.
    """
    folder = Folder(home or settings.home(environ))
    if not folder.root.exists():
        for name in PORTS:
            watch(TITLES[name], "not running", 0.0, "")
        return
    with folder.locked(lambda: watch("stack", "waiting", 0.0, "another `encnet stack` is at work")):
        state = folder.load()
        folder.environment_file.unlink(missing_ok=True)
        # Ray first: what runs on it may still have something to write to the others.
        for name in ("ray", "mlflow", "s3"):
            began = time.monotonic()
            stopped = _stop_part(folder, state, name)
            event: Event = "stopped" if stopped else "not running"
            watch(TITLES[name], event, time.monotonic() - began, f"pid {stopped[0]}" if stopped else "")
        state.num_cpus = None
        folder.save(state)
        if delete_data:
            folder.delete(state)


def _mark(folder: Folder, name: str) -> str:
    """Return the mark of the processes of one part: the same after a reboot, and even if all state is lost."""
    return f"{folder.root.resolve()}:{name}"


def _runs(state: State, name: str) -> bool:
    process = state.part(name).process
    return process is not None and processes.is_alive(process)


def _check_wishes(state: State, down_parts: list[str], num_cpus: int | None, *, new_ports: bool) -> None:
    """Raise StackInputError for what can't be had while some parts are up."""
    if num_cpus is not None and num_cpus < 1:
        raise StackInputError(f"--num-cpus: {num_cpus}: Ray needs at least 1")
    if num_cpus is not None and "ray" not in down_parts and state.num_cpus != num_cpus:
        raise StackInputError(
            f"--num-cpus: {num_cpus}: Ray is already up with {state.num_cpus}: run `encnet stack down` first"
        )
    running = [TITLES[name] for name in PORTS if name not in down_parts]
    if new_ports and running:
        raise StackInputError(
            f"--new-ports: {', '.join(running)} is up and known by the old ones: run `encnet stack down` first"
        )


def _assign_ports(state: State, names: list[str], *, new_ports: bool) -> None:
    """Give each part of `names` the ports it had, or free ones.

    Raises StackInputError if a port it had has been taken by another program.
    """
    for name in names:
        entry = state.part(name)
        if new_ports or set(entry.ports) != set(PORTS[name]):
            known = [port for other in state.parts.values() for port in other.ports.values()]
            entry.ports = ports.choose(PORTS[name], taken=known)
        for port in entry.ports.values():
            if not ports.is_free(port):
                raise StackInputError(
                    f"{TITLES[name]}: port {port} has been taken by {ports.holder(port)}: stop that, or run "
                    "`encnet stack down` and then `encnet stack up --new-ports`"
                )


def _settings(folder: Folder, state: State) -> dict[str, str]:
    """Return the settings of all parts together."""
    return {
        **object_store.settings(state.part("s3").ports, object_store.keys(folder)),
        **mlflow_server.settings(state.part("mlflow").ports),
        **ray_head.settings(folder, state.part("ray").ports),
    }


def _plan(folder: Folder, state: State, sessions: Path, environ: Mapping[str, str]) -> list[Part]:
    """Return the parts as `state` wants them."""
    s3_ports, mlflow_ports, ray_ports = (state.part(name).ports for name in ("s3", "mlflow", "ray"))
    s3_settings = object_store.settings(s3_ports, object_store.keys(folder))
    return [
        object_store.part(folder, s3_ports, environ),
        mlflow_server.part(folder, mlflow_ports, s3_settings, environ),
        ray_head.part(folder, ray_ports, sessions, _settings(folder, state), state.num_cpus or 1, environ),
    ]


def _bring_up(folder: Folder, state: State, parts: list[Part], watch: Watch) -> None:
    """Start the parts that are down, all at once, and wait for each to be ready; on failure stop those again."""
    started: list[str] = []
    began = time.monotonic()
    try:
        for part in parts:
            if not _runs(state, part.name):
                started.append(part.name)
                watch(part.title, "starting", 0.0, part.address)
                _start_part(folder, state, part)
        _wait(folder, state, parts, started, began, watch)
    except BaseException:
        for name in reversed(started):
            _stop_part(folder, state, name)
        raise


def _start_part(folder: Folder, state: State, part: Part) -> None:
    part.prepare()
    state.part(part.name).process = processes.start(
        part.command,
        cwd=part.cwd,
        environ=part.environ,
        log=folder.log(part.name),
        mark=_mark(folder, part.name),
    )
    # At once, so that a `down` finds the process even if this one is killed the next moment.
    folder.save(state)


def _wait(folder: Folder, state: State, parts: list[Part], started: list[str], began: float, watch: Watch) -> None:
    """Ask every part in turn until all are ready. Raises StackError for one that ends or takes too long."""
    waiting = list(parts)
    while waiting:
        for part in list(waiting):
            problem = part.ready()
            seconds = time.monotonic() - began
            if problem is None:
                watch(part.title, "up" if part.name in started else "already up", seconds, part.address)
                waiting.remove(part)
            else:
                _check_patience(folder, state, part, problem, seconds)
        time.sleep(POLL_S if waiting else 0.0)


def _check_patience(folder: Folder, state: State, part: Part, problem: str, seconds: float) -> None:
    """Raise StackError if there is nothing left to wait for."""
    log = folder.log(part.name)
    if not _runs(state, part.name):
        raise StackError(f"{part.title}: ended while starting{_last_words(log)}: see {log}")
    if seconds > part.start_timeout_s:
        raise StackError(
            f"{part.title}: not up after {seconds:.0f} s: {problem}: see {log}, then try `encnet stack down` and `up`"
        )


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f" ({lines[-1][:160]})" if lines else ""


def _part_status(folder: Folder, state: State, part: Part) -> PartStatus:
    process = state.part(part.name).process
    pid = process.pid if process is not None and processes.is_alive(process) else None
    if pid is not None:
        problem = part.healthy()
    else:
        problem = "not running" if process is None else f"its process {process.pid} has ended"
    log = folder.log(part.name)
    return PartStatus(name=part.name, title=part.title, address=part.address, pid=pid, problem=problem, log=log)


def _stop_part(folder: Folder, state: State, name: str) -> list[int]:
    """Stop what runs of one part, left-overs included, and return the pids, none if nothing ran."""
    entry = state.part(name)
    stopped = processes.stop(entry.process, _mark(folder, name), STOP_GRACE_S[name])
    if name == "s3":
        object_store.remove_sockets(entry.ports)
    entry.process = None
    folder.save(state)
    return stopped
