"""Where the shards of a data set are worked on: this machine's cores, or a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from infra.local import settings

if TYPE_CHECKING:
    from pipeline.shard_runner import Runner

ray_option = click.option(
    "--ray", "use_ray", is_flag=True, help="Work on the Ray cluster at $RAY_ADDRESS, not on this machine's cores."
)


def choose_runner(use_ray: bool) -> Runner:
    """What works on the shards. StackInputError when that is to be a cluster, and there is none."""
    from pipeline.shard_runner import on_ray, on_threads

    if use_ray:
        settings.require({"ray"})
    return on_ray if use_ray else on_threads
