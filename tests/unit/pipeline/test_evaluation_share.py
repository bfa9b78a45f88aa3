"""The part of workers: chunks of a real data set counted by a real network, against counting by hand."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

import encnet
from pipeline import evaluation_share, predict_model
from pipeline.calibration import Calibration
from pipeline.errors import DataError, PipelineError
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_share import Evaluator, Painter, in_threads
from pipeline.evaluation_tally import NUM_BINS, Tally, join_tallies
from pipeline.predict_model import NoMemory, Weights, load_network
from pipeline.sample_reader import SampleReader
from pipeline.shards import read_index
from pipeline.storage import LocalStore
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, write_made_up
from tests.unit.pipeline.small_model import CONFIG, store_model

NUM_VAL = 7


@pytest.fixture
def evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    load_network.cache_clear()
    store_model(tmp_path / "model", monkeypatch)
    write_made_up(tmp_path / "data", num_train=1, num_val=NUM_VAL)
    store = LocalStore(root=tmp_path / "data")
    return Evaluator(
        weights=Weights.read(tmp_path / "model" / "weights.safetensors"),
        protocol=Protocol(data=str(store.root), batch_size=2),
        store=store,
        index=read_index(store, "val"),
        num_classes=len(CLASSES),
        num_chunks=3,
    )


def count(evaluator: Evaluator) -> Tally:
    found = dict(evaluator(chunk) for chunk in range(evaluator.num_chunks))
    assert list(found) == list(range(evaluator.num_chunks))
    return join_tallies(list(found.values()), NUM_VAL)


@pytest.mark.parametrize("changes", [{}, {"scales": (0.75, 1.5), "flip": True}, {"crop_size": 32}], ids=str)
def test_chunks_together_are_the_split_counted_by_hand(evaluator: Evaluator, changes: dict[str, Any]) -> None:
    evaluator = replace(evaluator, protocol=replace(evaluator.protocol, **changes))
    tally = count(evaluator)
    network, reader = load_network(evaluator.weights), SampleReader(evaluator.store, evaluator.index)
    matrix = np.zeros((NUM_VAL, 4, 4), np.int64)
    boundary, calibration = encnet.BoundaryFScore(4), Calibration(NUM_BINS)
    for sample in range(NUM_VAL):
        image, label = reader.load(sample)
        options = evaluator.protocol.options
        probabilities = encnet.predict(
            network,
            encnet.normalize(torch.from_numpy(image)[None]),
            options.scales,
            options.flip,
            options.crop_size or None,
        )[0]
        confidence, ids = probabilities.max(0)
        boundary.update(ids, torch.from_numpy(label))
        calibration.update(confidence, ids, torch.from_numpy(label).long())
        np.add.at(matrix[sample], (label.ravel(), ids.numpy().ravel()), 1)
    # A batch's sums are in another order: where two classes are all but equally probable either may win.
    assert np.abs(tally.matrix - matrix.sum(0)).sum() <= 4
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    expected = np.stack([hits, matrix.sum(1) - hits, matrix.sum(2) - hits], 1)
    assert np.abs(tally.counts - expected).sum() <= 8
    assert tally.boundary.f_score == pytest.approx(boundary.f_score, abs=0.01)
    assert tally.boundary_images.tolist() == boundary.num_images.tolist()
    assert tally.calibration.ece == pytest.approx(calibration.ece, abs=1e-3)
    assert tally.not_finite.size == 0
    assert tally.devices.tolist() == ["one CPU core"]


def test_the_first_batch_of_a_process_is_not_timed(evaluator: Evaluator) -> None:
    tally = count(evaluator)  # 3, 2 and 2 samples: of one size, but for the last one of the first chunk
    sizes = list(zip(evaluator.index.height.tolist(), evaluator.index.width.tolist(), strict=True))
    shares = [sizes[0:3], sizes[3:5], sizes[5:7]]
    batches = sum(1 + (share[0] != share[1]) + (len(share) == 3) for share in shares)
    assert len(tally.times_ms) == batches - 1
    assert (tally.times_ms > 0).all()
    assert len(count(evaluator).times_ms) == batches, "now that the network is there"


def test_what_is_cut_in_another_way_counts_the_same(evaluator: Evaluator) -> None:
    evaluator = replace(evaluator, protocol=replace(evaluator.protocol, batch_size=1))
    whole, cut = count(replace(evaluator, num_chunks=1)), count(replace(evaluator, num_chunks=NUM_VAL))
    assert np.array_equal(whole.counts, cut.counts)
    assert np.array_equal(whole.matrix, cut.matrix)
    assert whole.boundary_total == pytest.approx(cut.boundary_total)


def test_threads_beside_a_gpu_count_the_same(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = count(evaluator)
    used: list[int] = []

    def threaded(work: Any, items: Any, num_threads: int) -> Iterator[Any]:
        used.append(num_threads)
        return in_threads(work, items, 2)

    monkeypatch.setattr(evaluation_share, "in_threads", threaded)
    found = count(evaluator)
    assert used == [0] * evaluator.num_chunks, "here is no GPU"
    assert np.array_equal(found.counts, expected.counts)
    assert np.array_equal(found.reliability, expected.reliability)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_results_come_in_order_and_little_is_done_ahead(num_threads: int) -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            asked.append(number)
            yield number

    results = in_threads(lambda number: number**2, items(), num_threads)
    for number in range(50):
        assert next(results) == number**2
        assert len(asked) <= number + 2 * num_threads + 1
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (3 - number), items(), num_threads))


def test_probabilities_that_are_no_numbers_are_told_and_do_not_spoil_calibration(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    network = load_network(evaluator.weights)
    torch.nn.init.constant_(network.head.classifier.weight, float("nan"))
    encnet.save_weights(network, CONFIG, tmp_path / "weights.safetensors")
    tally = count(replace(evaluator, weights=Weights.read(tmp_path / "weights.safetensors")))
    assert tally.not_finite.tolist() == list(range(NUM_VAL))
    assert tally.calibration.num_pixels.sum() == 0
    assert tally.matrix.sum() > 0


def test_where_memory_is_short_images_go_one_by_one_or_are_named(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, classify = (
        count(replace(evaluator, protocol=replace(evaluator.protocol, batch_size=1))),
        predict_model.classify,
    )

    def scarce(network: Any, images: Any, options: Any) -> Any:
        if len(images) > 1:
            raise NoMemory("can't allocate memory")
        return classify(network, images, options)

    monkeypatch.setattr(evaluation_share, "classify", scarce)
    assert np.array_equal(count(evaluator).counts, expected.counts)

    def none(network: Any, images: Any, options: Any) -> Any:
        raise NoMemory("can't allocate memory")

    monkeypatch.setattr(evaluation_share, "classify", none)
    with pytest.raises(PipelineError) as caught:
        evaluator(0)
    assert str(caught.value) == (
        "sample 's0000', 40 x 56: there is no memory for it: give --crop-size, or fewer --num-workers"
    )


def test_a_label_that_is_no_class_is_named(evaluator: Evaluator) -> None:
    with pytest.raises(DataError) as caught:
        replace(evaluator, num_classes=2)(0)
    shard = Path(evaluator.store.uri("val/000000.tar"))
    assert str(caught.value).startswith(f"{shard}: sample 's0000': label: id ")


def test_an_evaluator_can_be_sent_and_draws(evaluator: Evaluator) -> None:
    sent = pickle.loads(pickle.dumps(Painter(evaluator=evaluator, classes=CLASSES, palette=PALETTE)))  # noqa: S301
    picture = simplejpeg.decode_jpeg(sent(6))
    height, width = int(evaluator.index.height[6]), int(evaluator.index.width[6])
    factor = -(-240 // width)  # panels are enlarged until they can be read
    assert picture.shape[1] >= 2 * factor * width
    assert picture.shape[0] > 2 * factor * height
