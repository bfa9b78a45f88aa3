"""The local stack: object store, MLflow and Ray on this machine.

encnet stack up        bring up what is not, and wait until it works
encnet stack status    what is up, and where
encnet stack down      stop it; the data stays
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from infra.local import ray_head, settings
from infra.local import stack as local_stack
from infra.local.errors import StackInputError
from infra.local.stack import Event, PartStatus, Watch
from infra.local.state import Folder


@click.group()
def stack() -> None:
    """The local stack: object store, MLflow and Ray on this machine."""


@stack.command()
@click.option("--num-cpus", type=click.IntRange(min=1), help="CPUs Ray may use.  [default: all of this machine's]")
@click.option("--new-ports", is_flag=True, help="Give the parts that are down new ports.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on stdout.")
def up(num_cpus: int | None, new_ports: bool, as_json: bool) -> None:
    """Bring up what is not up, and wait until it works."""
    parts = bring_up(num_cpus=num_cpus, new_ports=new_ports)
    if as_json:
        print(json.dumps(_as_dict(parts)))
    else:
        print(addresses(parts))


@stack.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what is up, and where. Exit code 1 if a part is not."""
    parts = local_stack.status()
    if as_json:
        print(json.dumps(_as_dict(parts)))
    else:
        for part in parts:
            state = "up" if part.problem is None else f"down: {part.problem}"
            print(f"{part.title:<14}{state}")
            print(f"{'':14}address {part.address or '-'}   pid {part.pid or '-'}   log {part.log}")
    if any(part.problem for part in parts):
        sys.exit(1)


@stack.command()
@click.option("--delete-data", is_flag=True, help="Delete all data, runs, models, logs and keys of the stack too.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
def down(delete_data: bool, yes: bool) -> None:
    """Stop what `up` started, and nothing else. The data stays."""
    root = Folder(settings.home()).root
    if delete_data and not yes:
        if not sys.stdin.isatty():
            raise StackInputError(f"--delete-data: would delete {root}: say --yes where nobody can be asked")
        click.confirm(f"Delete all data, runs, models and logs in {root}?", abort=True, err=True)
    local_stack.down(delete_data=delete_data, watch=_print_event)
    if delete_data or root.exists():
        print(f"{root} deleted" if delete_data else f"data kept in {root}", file=sys.stderr)


def bring_up(*, num_cpus: int | None = None, new_ports: bool = False) -> list[PartStatus]:
    """Bring the stack up with a progress line per part on stderr, and load its settings into this process.

    Raises StackInputError and StackError as `infra.local.stack.up` does.
    """
    with _progress() as watch:
        parts = local_stack.up(num_cpus=num_cpus, new_ports=new_ports, watch=watch)
    settings.load_environment()
    return parts


def addresses(parts: list[PartStatus]) -> str:
    """Return where a person finds the parts, and how to get in."""
    where = {part.name: part.address for part in parts}
    folder = Folder(settings.home())
    return "\n".join(
        (
            f"S3             {where['s3']}   keys in {folder.environment_file}",
            f"MLflow UI      {where['mlflow']}",
            f"Ray dashboard  {where['ray']}   log in with the token in {ray_head.token_file(folder)}",
            f"In a shell     source {folder.environment_file}",
        )
    )


def _as_dict(parts: list[PartStatus]) -> dict[str, object]:
    folder = Folder(settings.home())
    return {
        "up": all(part.problem is None for part in parts),
        "environment_file": str(folder.environment_file),
        "ray_token_file": str(ray_head.token_file(folder)),
        "parts": {
            part.name: {"address": part.address, "pid": part.pid, "problem": part.problem, "log": str(part.log)}
            for part in parts
        },
    }


def _line(title: str, event: Event, seconds: float, detail: str) -> str:
    timed = f"{event} in {seconds:.1f} s" if event in ("up", "stopped") else event
    return f"{title:<14}{timed:<19}{detail}".rstrip()


def _print_event(title: str, event: Event, seconds: float, detail: str) -> None:
    print(_line(title, event, seconds, detail), file=sys.stderr, flush=True)


@contextmanager
def _progress() -> Iterator[Watch]:
    """Yield a watcher: a spinner with seconds per part on a terminal, a plain line per finished part elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield (
            lambda title, event, seconds, detail: (
                None if event == "starting" else _print_event(title, event, seconds, detail)
            )
        )
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def watch(title: str, event: Event, seconds: float, detail: str) -> None:
            if event == "starting":
                tasks[title] = progress.add_task(f"{title:<14}starting", total=None)
                return
            if title in tasks:
                progress.remove_task(tasks.pop(title))
            progress.console.print(_line(title, event, seconds, detail), markup=False, highlight=False)

        yield watch
