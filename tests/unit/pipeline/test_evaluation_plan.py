"""What tells one evaluation from another, and how its work is cut into chunks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.evaluation_plan import PIXELS_A_CHUNK, SAMPLES_A_CHUNK, Protocol, count_chunks, evaluation_key
from pipeline.world import World

PLAIN = Protocol(data="s3://encnet/data/camvid")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_workers": 0}, "num_workers: 0, batch_size: 4: must be 1 or more"),
        ({"batch_size": 0}, "num_workers: 2, batch_size: 0: must be 1 or more"),
        ({"scales": ()}, "scales: (): must be numbers greater than 0"),
        ({"scales": (1.0, -2.0)}, "scales: (1.0, -2.0): must be numbers greater than 0"),
        ({"crop_size": 3}, "crop_size: 3 is too small: give at least 32, or 0"),
    ],
)
def test_a_protocol_that_can_t_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Protocol(data="x", **values)
    assert str(caught.value) == message


CHANGES: list[dict[str, Any]] = [
    {"split": "test"}, {"scales": (0.75, 1.0)}, {"scales": (1.0, 0.75)}, {"flip": True}, {"crop_size": 480},
]  # fmt: skip


def test_the_key_tells_apart_what_scores_depend_on() -> None:
    keys = {evaluation_key("w", "d", dataclasses.replace(PLAIN, **change)) for change in [{}, *CHANGES]}
    keys |= {evaluation_key("v", "d", PLAIN), evaluation_key("w", "e", PLAIN), evaluation_key("d", "w", PLAIN)}
    assert len(keys) == 1 + len(CHANGES) + 3
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize(
    "change", [{"data": "/a/copy"}, {"batch_size": 1}, {"num_workers": 8}, {"scales": (1,)}], ids=str
)
def test_the_key_does_not_depend_on_how_the_work_was_done(change: dict[str, Any]) -> None:
    assert evaluation_key("w", "d", dataclasses.replace(PLAIN, **change)) == evaluation_key("w", "d", PLAIN)


def test_the_label_names_the_split_and_what_is_not_plain() -> None:
    assert PLAIN.label == "val"
    assert Protocol(data="x", split="test", scales=(0.75, 1.0), flip=True, crop_size=480).label == (
        "test-x0.75-x1-flip-crop480"
    )
    assert len({dataclasses.replace(PLAIN, **change).label for change in [{}, *CHANGES]}) == 1 + len(CHANGES)


sizes = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=300)


@given(sizes, st.sampled_from([PLAIN, dataclasses.replace(PLAIN, scales=(0.5, 1.0, 2.0), flip=True)]))
def test_chunks_hold_each_sample_once(sizes: list[tuple[int, int]], protocol: Protocol) -> None:
    width, height = np.array(sizes, np.int32).T
    count = count_chunks(width, height, protocol)
    chunks = [list(World(chunk, count).share(len(sizes))) for chunk in range(count)]
    assert [sample for chunk in chunks for sample in chunk] == list(range(len(sizes)))
    assert all(chunks)
    assert max(map(len, chunks)) <= SAMPLES_A_CHUNK
    others = dataclasses.replace(protocol, num_workers=7, batch_size=9)
    assert count_chunks(width, height, others) == count


@pytest.mark.parametrize(
    ("num_images", "side", "changes", "count"),
    [
        (6, 100, {}, 6),
        (101, 400, {}, 16),
        (2000, 500, {}, 32),
        (500, 1400, {}, 62),
        (500, 1400, {"flip": True}, 123),
        (500, 1400, {"scales": (0.5, 1.0)}, 77),
        (3, 50_000, {}, 3),
    ],
)
def test_a_chunk_is_worth_its_while_and_soon_done(
    num_images: int, side: int, changes: dict[str, Any], count: int
) -> None:
    sides = np.full(num_images, side, np.int32)
    protocol = dataclasses.replace(PLAIN, **changes)
    assert count_chunks(sides, sides, protocol) == count
    views = sum(scale**2 for scale in protocol.scales) * (2 if protocol.flip else 1)
    largest = len(World(0, count).share(num_images))
    assert largest == 1 or (largest - 1) * side**2 * views <= PIXELS_A_CHUNK
