"""Loaders of the same samples behind one interface: a share of an epoch in, steps out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch
import webdataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import encnet
from pipeline.augment import augment, augment_rng, choose_view
from pipeline.loader import TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.shards import read_index
from pipeline.storage import open_store
from pipeline.transforms import TransformConfig, decode_image, decode_label
from pipeline.world import World
from tests.benchmarks import decode
from tests.benchmarks.loading.samples import SPLIT, Source

Item = tuple[NDArray[np.uint8], NDArray[np.uint8], int]
"""A crop's image, label and the sample's number."""
Decode = Callable[[bytes, bytes, int, TransformConfig], Any]
"""JPEG, label PNG, number, what to do to them -> an Item, or what is like one."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank asks for: its part of an epoch, or of the rest of one."""

    source: Source
    endpoint: str
    """Of the store."""
    scratch: Path
    """A folder for what loaders keep; of all ranks of this machine."""
    world: World = field(default_factory=World)
    port: int = 0
    """On which ranks may meet."""
    batch_size: int = 8
    """Of all ranks together."""
    workers: int = 2
    """Threads or processes that decode, of a rank."""
    state: Mapping[str, Any] | None = None
    """What the loader itself gave to be resumed with."""

    @property
    def of_rank(self) -> int:
        """This rank's part of a batch."""
        return self.batch_size // self.world.size

    @property
    def worker_options(self) -> dict[str, Any]:
        """Of a DataLoader; fork is what it does by itself in a program that was not forked."""
        return {"num_workers": self.workers, "multiprocessing_context": "fork"}


class Step(NamedTuple):
    """What a rank has got."""

    samples: list[int]
    state: dict[str, Any]
    """To resume after this step with."""


Open = Callable[[Share], Iterator[Step]]


def enter(share: Share) -> None:
    """Make this process one of the share's ranks."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rank, size = str(share.world.rank), str(share.world.size)
    os.environ.update(share.source.environment)
    os.environ.update(
        AWS_ENDPOINT_URL=share.endpoint, S3_ENDPOINT_URL=share.endpoint,
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size,
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(share.port),
    )  # fmt: skip


def decode_ours(jpeg: bytes, label: bytes, number: int, config: TransformConfig) -> Item:
    """As our loader does."""
    pixels = decode_image(jpeg, "jpg"), decode_label(label)
    return *augment(*pixels, config, augment_rng(0, 0, number)), number


def decode_pillow(jpeg: bytes, label: bytes, number: int, config: TransformConfig) -> Item:
    """As PyTorch-Encoding does: the whole image resized, padded, cut out and mirrored."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    # Only the label's size matters here.
    view = choose_view(np.empty((height, width), np.uint8), config, augment_rng(0, 0, number))
    image, ids = decode.pillow_whole(decode.Coded(jpeg, label, b"", view), config.crop_size)
    return np.array(image), np.array(ids), number  # Pillow's own are read-only, which tensors can't be


def open_ours(share: Share) -> Iterator[Step]:
    """Our loader, from our shards."""
    done = share.state["steps"] if share.state else 0
    with _train_loader(share, share.world, done) as loader:
        for batch in islice(loader, share.source.num_samples // share.batch_size - done):
            yield Step(batch.sample_ids.tolist(), {"steps": batch.step + 1})


def _train_loader(share: Share, world: World, start_step: int) -> TrainLoader:
    store = open_store(share.source.uri)
    index = read_index(store, SPLIT)
    order = Order(plan_blocks(index.shard, index.offset, index.length), seed=0, batch_size=share.batch_size)
    return TrainLoader(
        store, index, order, world=world, transform=share.source.transform, seed=0, start_step=start_step,
        threads=share.workers,
    )  # fmt: skip


def decode_pillow_float(jpeg: bytes, label: bytes, number: int, config: TransformConfig) -> Any:
    """As PyTorch-Encoding does, to the end: a float32 image, normalised, and an int64 label."""
    image, ids, _ = decode_pillow(jpeg, label, number, config)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (encnet.IMAGENET_MEAN, encnet.IMAGENET_STD))
    scaled = torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255)
    return scaled.sub_(mean).div_(std), torch.from_numpy(ids).long(), number


class _OurRanks(IterableDataset[Any]):
    """Our loader in each process of a DataLoader, a rank each, with one thread."""

    def __init__(self, share: Share) -> None:
        self.share = share

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        one_thread = replace(self.share, workers=1)
        with _train_loader(one_thread, World(info.id, info.num_workers), 0) as loader:
            for batch in islice(loader, self.share.source.num_samples // self.share.batch_size):
                yield batch.images, batch.labels, batch.sample_ids


def open_ours_in_processes(share: Share) -> Iterator[Step]:
    """The same in processes instead of threads, handed over by torch's DataLoader."""
    for _, _, samples in DataLoader(_OurRanks(share), batch_size=None, **share.worker_options):
        yield Step(samples.tolist(), {})


class _Files(Dataset[Any]):
    """Files on disk."""

    def __init__(self, source: Source, form: Decode) -> None:
        self.source = source
        self.form = form

    def __len__(self) -> int:
        return self.source.num_samples

    def __getitem__(self, sample: int) -> Any:
        jpeg, label = (self.source.file(sample, extension).read_bytes() for extension in ("jpg", "png"))
        return self.form(jpeg, label, sample, self.source.transform)


def open_files(share: Share, form: Decode = decode_pillow) -> Iterator[Step]:
    """Pillow and torch's DataLoader over files, as PyTorch-Encoding reads its data sets."""
    loader = DataLoader(_Files(share.source, form), share.of_rank, shuffle=True, drop_last=True, **share.worker_options)
    for _, _, samples in loader:
        yield Step(samples.tolist(), {})


def open_webdataset(share: Share, form: Decode = decode_ours) -> Iterator[Step]:
    """Stock webdataset, its shards piped from curl, as its documentation shows.

    What it offers to resume with is to start again and leave out as many samples as were had: all shuffling is seeded,
    so that this leaves out the right ones where it can.
    """
    steps_done = share.state["steps"] if share.state else 0
    loader = DataLoader(_webdataset(share, form, steps_done), batch_size=None, **share.worker_options)
    for step, (_, _, samples) in enumerate(loader, start=steps_done + 1):
        yield Step(np.asarray(samples).tolist(), {"steps": step})


def _webdataset(share: Share, form: Decode, steps_done: int) -> Any:
    urls = [f"pipe:curl -s -f {shlex.quote(url)}" for url in _signed_urls(share)]
    shards = webdataset.WebDataset(
        urls, shardshuffle=len(urls), detshuffle=True, seed=0, nodesplitter=webdataset.split_by_node
    )
    unread = shards.shuffle(1000, seed=0).compose(partial(_leave_out, steps=steps_done, of_rank=share.of_rank))
    return unread.map(partial(_decode_members, form=form, config=share.source.transform)).batched(share.of_rank)


def _leave_out(samples: Iterator[Any], steps: int, of_rank: int) -> Iterator[Any]:
    """What this worker of a DataLoader gives after so many of the rank's steps, to which all workers give in turn."""
    info = get_worker_info()
    worker, workers = (info.id, info.num_workers) if info else (0, 1)
    return islice(samples, len(range(worker, steps, workers)) * of_rank, None)


def _decode_members(members: Mapping[str, Any], form: Decode, config: TransformConfig) -> Any:
    return form(members["jpg"], members["seg.png"], int(members["__key__"][1:]), config)


def _signed_urls(share: Share) -> list[str]:
    """Addresses of the shards that need no keys, for an hour."""
    import boto3
    from botocore.config import Config

    bucket, _, prefix = share.source.uri.removeprefix("s3://").partition("/")
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=share.endpoint, config=config)
    names = [key for key in open_store(share.source.uri).list(f"{SPLIT}/") if key.endswith(".tar")]
    return [
        client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": f"{prefix}/{name}"})
        for name in names
    ]
