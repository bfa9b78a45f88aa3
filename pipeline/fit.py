"""The loop of a run: train, and now and then validate and take a checkpoint, at the same steps on all ranks.

Checkpoints are taken where the weights are validated, and without a score whenever rank 0's clock, the driver or the
notice of a preemption asks for one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

import ray.train
import torch.distributed as dist

from pipeline import schedule
from pipeline.bad_samples import too_many
from pipeline.checkpoint import RunState, take_snapshot
from pipeline.checkpoint_store import CheckpointStore
from pipeline.checkpoint_upload import Uploads, report_nothing, report_unscored
from pipeline.errors import InputError, StorageError
from pipeline.loader import TrainLoader
from pipeline.meter import Meter
from pipeline.run_board import STOP, Pulse
from pipeline.sample_record import SampleRecord
from pipeline.schedule import learning_rate, num_steps
from pipeline.signals import Clock, Requests, Signals
from pipeline.train_log import log_pictures, log_points, log_scores
from pipeline.train_setup import Worker, open_loader
from pipeline.train_step import train_step
from pipeline.validation import validate

LOG_EVERY_STEPS = 5


@dataclass
class Loop:
    """What the loop holds besides the worker."""

    worker: Worker
    checkpoints: CheckpointStore
    loader: TrainLoader
    meter: Meter
    signals: Signals
    clock: Clock
    pulse: Pulse
    uploads: Uploads | None
    """Only on rank 0."""
    num_steps: int
    beside: bool
    """Whether Ray Train validates checkpoints beside training."""
    record: SampleRecord | None
    """Of the samples of each step, where the recipe asks for it."""
    noticed: set[str] = field(default_factory=set)
    """The preempted nodes for which a checkpoint was taken."""


def fit(worker: Worker, checkpoints: CheckpointStore, pulse: Pulse, beside: bool) -> None:
    """Train to the last step, or until the driver asks to stop, or no validation has been better for long.

    `beside`: Ray Train has been told how to validate a checkpoint.
    """
    config, state = worker.config, worker.state
    steps = num_steps(len(worker.train_index), config.optim)
    with open_loader(worker) as loader, Signals(worker.world, config.workers.collective_timeout_s) as signals:
        meter = Meter(
            steps,
            config.optim.batch_size,
            len(worker.train_index),
            state.losses,
            state.unlogged,
            worker.post,
            may_skip=config.precision == "fp16",
        )
        clock, uploads = Clock(config.checkpoint.every_s), open_uploads(worker, checkpoints)
        record = open_record(worker)
        loop = Loop(worker, checkpoints, loader, meter, signals, clock, pulse, uploads, steps, beside, record)
        make_up_for(loop)
        for step in range(worker.state.step, steps):
            do_step(loop, step)
            if end_step(loop, step + 1):
                break
        pulse.at(worker.state.step, "upload")
        if uploads:
            uploads.finish()


def open_uploads(worker: Worker, checkpoints: CheckpointStore) -> Uploads | None:
    """Rank 0's way to storage, cleared of what dead attempts left half done there."""
    if worker.world.rank != 0:
        return None
    checkpoints.delete_partial()
    return Uploads(
        checkpoints,
        worker.config.checkpoint,
        worker.state,
        committed=lambda step: worker.outbox.commit(step) if worker.outbox else None,
        lost=lambda step, fault: worker.note("lost checkpoint", fault, step),
    )


def open_record(worker: Worker) -> SampleRecord | None:
    """The record of samples, of earlier attempts too; None where the recipe does not ask for one."""
    state = worker.state
    return SampleRecord(worker.world, state.sample_ids, state.step) if worker.config.checkpoint.record_samples else None


def make_up_for(loop: Loop) -> None:
    """Have the validations done that the attempt before did not live to see."""
    if loop.beside:
        for name in from_rank_0(loop, unscored(loop)):
            report_unscored(name) if loop.uploads else report_nothing(name)
    state = loop.worker.state
    is_left = state.is_scored_later and loop.beside
    if is_validated(loop, state.step) and state.miou is None and not is_left:
        conclude(loop, state.step, validates=True)


def unscored(loop: Loop) -> list[str]:
    """The checkpoints whose score is still to come, as storage tells; on rank 0."""
    return [one.name for one in loop.checkpoints.saved() if one.is_scored_later] if loop.uploads else []


def from_rank_0(loop: Loop, names: list[str]) -> list[str]:
    """What rank 0 gives, on all ranks."""
    shared = [names]
    if loop.worker.world.size > 1:
        dist.broadcast_object_list(shared, src=0)
    return shared[0]


def do_step(loop: Loop, step: int) -> None:
    """Train on global batch `step`, and log every few steps."""
    worker, loader = loop.worker, loop.loader
    loop.pulse.at(step, "data")
    micro_batches = [next(loader) for _ in range(worker.config.optim.batch_size // loader.micro_batch)]
    loop.pulse.at(step, "step")
    loop.meter.add(train_step(worker, step, learning_rate(step, loop.num_steps, worker.config.optim), micro_batches))
    if loop.record:
        loop.record.add(micro_batches)
    if (step + 1) % LOG_EVERY_STEPS == 0 or is_validated(loop, step + 1):
        log(loop, step + 1)


def log(loop: Loop, step: int) -> None:
    """Log the steps since the last time. Raises TrainingError for a loss or gradient that is not finite."""
    lr, data = learning_rate(step - 1, loop.num_steps, loop.worker.config.optim), loop.loader.metrics
    loop.meter.log(step, lr, data.wait_s, data.bytes_read)
    log_points(loop.worker, loop.meter.points)


def is_validated(loop: Loop, step: int) -> bool:
    """Whether the weights after `step` steps are validated."""
    config = loop.worker.config
    samples, every = len(loop.worker.train_index), config.validation.every_epochs
    return schedule.is_validated(step, loop.num_steps, samples, config.optim.batch_size, every)


def end_step(loop: Loop, step: int) -> bool:
    """Do what is due once `step` steps are done, the same on all ranks; True when the run leaves the loop."""
    asked = loop.signals.exchange(requests(loop))
    validates = is_validated(loop, step)
    preempted = asked.preemption_check and is_preempted(loop, step)
    if preempted and validates:  # the node may be gone before validation is through
        conclude(loop, step, validates=False)
    if not (validates or preempted or asked.checkpoint or asked.stop):
        return False
    return conclude(loop, step, validates=validates, stop=asked.stop)


def conclude(loop: Loop, step: int, *, validates: bool, stop: bool = False) -> bool:
    """Take a checkpoint after `step` steps, with a score or without; True when the run is at its end with it."""
    worker, samples = loop.worker, step * loop.worker.config.optim.batch_size
    loop.meter.gather(step)
    with loop.meter.paused():
        later = validates and is_left_to_ray(loop, step, stop)
        worker.state = replace(
            worker.state, step=step, samples=samples, miou=None, iou=[], is_scored_later=later, ended=""
        )
        validates_here = validates and not later
        if validates_here:
            run_validation(loop)
        patience = worker.config.validation.patience
        ended = how_it_ended(worker.state, loop.num_steps, patience, stop=stop, validated=validates_here)
        worker.state = replace(worker.state, ended=ended)
        checkpoint(loop)
        if validates_here:
            log_pictures(worker, step)
    return bool(worker.state.ended)


def is_left_to_ray(loop: Loop, step: int, stop: bool) -> bool:
    """Whether the weights are validated beside training: not the last, and not while others still wait for that."""
    if not loop.beside or stop or step == loop.num_steps:
        return False
    return bool(from_rank_0(loop, ["beside"] if has_none_waiting(loop) else []))


def has_none_waiting(loop: Loop) -> bool:
    """Whether the checkpoints before are all stored and scored; on rank 0."""
    try:
        return loop.uploads is not None and loop.uploads.is_idle and not unscored(loop)
    except (StorageError, InputError):  # storage is away for now: the loop can validate without it
        return False


def how_it_ended(state: RunState, num_steps: int, patience: int, *, stop: bool, validated: bool) -> str:
    """`RunState.ended` of a run of `num_steps` at this state, just `validated` or not."""
    if validated and state.step == num_steps:
        return "finished"
    if stop:
        return "stopped"
    return "early" if validated and 0 < patience <= state.num_since_best else ""


def requests(loop: Loop) -> Requests:
    """What this rank asks all of them to do."""
    stop = loop.pulse.asked == STOP
    if not loop.uploads:
        return Requests(stop=stop)
    due = loop.clock.due(loop.uploads.lost_one())
    return due._replace(stop=stop, checkpoint=due.checkpoint and loop.uploads.is_idle)


def is_preempted(loop: Loop, step: int) -> bool:
    """Whether Ray tells of nodes about to be taken away that it had not told of before. All ranks ask together."""
    info = ray.train.get_preemption_info()
    new = set(info.preempted_node_ids) - loop.noticed if info else set()
    if new:
        loop.noticed |= new
        loop.worker.note("preemption notice", f"nodes {', '.join(sorted(new))}: a checkpoint is taken", step)
    return bool(new)


def run_validation(loop: Loop) -> None:
    """Validate on all ranks, and log and keep the score."""
    worker = loop.worker
    loop.pulse.at(worker.state.step, "validation")
    matrix = validate(worker)
    worker.state = worker.state.scored(matrix.mean_iou, matrix.iou.tolist())
    log_scores(worker, matrix)
    worker.post(miou=matrix.mean_iou, validated=(worker.state.step, matrix.mean_iou, matrix.iou.tolist()))


def checkpoint(loop: Loop) -> None:
    """Take a checkpoint of the worker's state: the loop waits for the copy only, and logs for how long."""
    worker = loop.worker
    loop.pulse.at(worker.state.step, "checkpoint")
    with loop.meter.stalled():
        worker.state = replace(
            worker.state,
            losses=list(loop.meter.losses),
            unlogged=list(loop.meter.unlogged),
            points=worker.outbox.pending() if worker.outbox else [],
            bad_samples=all_bad_samples(worker, loop.loader.bad_samples),
            sample_ids=loop.record.gather() if loop.record else worker.state.sample_ids,
        )
        if loop.uploads:
            ema = worker.ema.net if worker.ema else None
            loop.uploads.report(take_snapshot(worker.net, ema, worker.optimizer, worker.scaler, worker.state))
        else:
            report_nothing(worker.state.name)
    loop.clock.saved()


def all_bad_samples(worker: Worker, ours: list[str]) -> list[str]:
    """The bad samples of all ranks, and of the run before it was resumed. DataError when they are too many together."""
    of_ranks = [ours]
    if worker.world.size > 1:
        of_ranks = [[] for _ in range(worker.world.size)]
        dist.all_gather_object(of_ranks, ours)
    found = sorted({*worker.state.bad_samples, *chain.from_iterable(of_ranks)})
    if len(found) > worker.config.data.max_bad_samples:
        raise too_many(found, worker.config.data.max_bad_samples)
    return found
