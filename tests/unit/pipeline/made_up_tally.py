"""Tallies of made-up predictions, for the tests of what becomes of them."""

from __future__ import annotations

import numpy as np
import torch

import encnet
from pipeline.bootstrap import class_counts
from pipeline.calibration import Calibration
from pipeline.evaluation_plan import Protocol, evaluation_key
from pipeline.evaluation_record import Facts, Record, WorstImage
from pipeline.evaluation_tally import NUM_BINS, Tally


def made_up_tally(samples: list[int], num_classes: int = 3, seed: int = 0, right: float = 0.7) -> Tally:
    """What is counted of images of 8 x 8 pixels, each made up from `seed` and its own number alone."""
    confusion, boundary = encnet.ConfusionMatrix(num_classes), encnet.BoundaryFScore(num_classes)
    calibration, counts = Calibration(NUM_BINS), np.zeros((len(samples), 3, num_classes), np.int64)
    for at, sample in enumerate(samples):
        rng = np.random.default_rng([seed, sample])
        label = np.kron(rng.integers(0, num_classes, (2, 2)), np.ones((4, 4), np.int64))
        guess = np.where(rng.random((8, 8)) < right, label, rng.integers(0, num_classes, (8, 8)))
        label[rng.random((8, 8)) < 0.1] = 255
        confidence = np.round(rng.uniform(0.3, 1, (8, 8)), 3)
        own = encnet.ConfusionMatrix(num_classes)
        own.update(torch.from_numpy(guess), torch.from_numpy(label))
        confusion += own
        counts[at] = class_counts(own.matrix.numpy())
        boundary.update(torch.from_numpy(guess), torch.from_numpy(label))
        calibration.update(torch.from_numpy(confidence), torch.from_numpy(guess), torch.from_numpy(label))
    return Tally(
        sample_ids=np.array(samples, np.int64),
        counts=counts,
        matrix=confusion.matrix.numpy(),
        boundary_total=boundary.total,
        boundary_images=boundary.num_images,
        reliability=np.stack([calibration.num_pixels, calibration.num_right, calibration.confidence]),
        not_finite=np.array([sample for sample in samples if sample == 4], np.int64),
        times_ms=np.array([10.0 + sample for sample in samples]),
        peak_bytes=np.zeros(0, np.int64),
        devices=np.array(["one CPU core"]),
    )


def made_up_record(tally: Tally, classes: tuple[str, ...], name: str = "encnet-street", version: str = "3") -> Record:
    """A record as if that tally had been logged."""
    protocol = Protocol(data="s3://encnet/data/street")
    facts = Facts(
        key=evaluation_key("ab" * 32, "cd" * 32, protocol),
        model_uri=f"models:/{name}/{version}" if name else "/models/mine",
        name=name,
        version=version,
        weights_digest="ab" * 32,
        parameters=12_300_000,
        data_name="street",
        data_digest="cd" * 32,
        classes=classes,
        palette=tuple((place % 256, 10, 200) for place in range(len(classes))),
        protocol=protocol,
        checks={"each sample once": "", "probabilities are numbers": "not so in 1 of 9 images, e.g. 'a'"},
        worst=(WorstImage(key="night/a1", miou=0.0123), WorstImage(key="day/b2", miou=0.2)),
        commit="0123abc",
        at="2026-11-23T15:00:00+00:00",
    )
    return Record(facts=facts, tally=tally, run_id="7" * 32, run_url=f"http://127.0.0.1:5000/#/runs/{'7' * 32}")
