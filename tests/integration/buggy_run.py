"""A run whose second worker raises the same exception at step 3 each time: `-m tests.integration.buggy_run NAME`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import ray.train

from pipeline import trainer
from pipeline.attempts import run_attempts
from pipeline.cluster import connect_ray, open_pulse, run_board
from pipeline.config import WorkersConfig
from pipeline.errors import TrainingError
from pipeline.resume import run_store
from pipeline.stop_signals import StopSignals
from pipeline.timeline import Timeline
from pipeline.world import World
from workflows.train import recipe_config


def buggy(job: dict[str, Any]) -> None:
    """In place of the training loop."""
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    with open_pulse(job["board"], world) as pulse:
        pulse.at(3, "step")
        time.sleep(3)
        if world.rank == 1:
            raise ValueError("a bug")
        time.sleep(60)


def main(name: str) -> None:
    """Run it on the stack; ends with exit code 1 and the error in the last line of stderr."""
    trainer.train_worker = buggy
    config = recipe_config("context_scenes_r18", {"storage": "s3://encnet", "name": name})
    connect_ray()
    with (
        run_board(config.storage, name, resume=False) as board,
        Timeline(run_store(config.storage, name)) as timeline,
        StopSignals() as signals,
    ):
        try:
            run_attempts(replace(config, workers=WorkersConfig(num=2)), "no run", timeline, signals, board)
        except TrainingError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
