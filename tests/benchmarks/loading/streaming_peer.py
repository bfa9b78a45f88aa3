"""MosaicML Streaming, which `make bench-peers` installs in a folder of its own: it wants other versions than we do."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.loading.loaders import Share, Step, decode_ours
from tests.benchmarks.loading.samples import Source

FOLDER = Path(sys.prefix, "peers")


def is_installed() -> bool:
    """Whether `make bench-peers` has been run."""
    return (FOLDER / "streaming").is_dir()


def import_streaming() -> Any:
    """Its module `streaming.base`: the others want torchvision, which is not for this torch."""
    if "streaming" not in sys.modules:
        sys.path.append(str(FOLDER))  # behind our own packages
        package = types.ModuleType("streaming")
        package.__path__ = [str(FOLDER / "streaming")]
        sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def write_mds(source: Source, shard_bytes: int) -> None:
    """The source's samples in MDS, on its store."""
    os.environ.update(source.environment, S3_ENDPOINT_URL=source.environment["AWS_ENDPOINT_URL"])
    columns = {"image": "bytes", "label": "bytes", "number": "int"}
    with import_streaming().MDSWriter(out=source.mds_uri, columns=columns, size_limit=shard_bytes) as writer:
        for number in range(source.num_samples):
            image, label = (source.file(number, extension).read_bytes() for extension in ("jpg", "seg.png"))
            writer.write({"image": image, "label": label, "number": number})


def open_streaming(share: Share) -> Iterator[Step]:
    """StreamingDataset and StreamingDataLoader, decoding as ours does, resumed by their state_dict."""
    base = import_streaming()
    source = share.source

    class Decoded(base.StreamingDataset):  # type: ignore[name-defined]
        def __getitem__(self, at: int) -> Any:
            row = super().__getitem__(at)
            return decode_ours(row["image"], row["label"], row["number"], source.transform)

    cache = share.scratch / "mds"
    dataset = Decoded(remote=source.mds_uri, local=str(cache), batch_size=share.of_rank, shuffle=True, shuffle_seed=0)
    loader = base.StreamingDataLoader(dataset, batch_size=share.of_rank, **share.worker_options)
    if share.state:
        loader.load_state_dict(dict(share.state))
    for _, _, samples in loader:
        yield Step(samples.tolist(), loader.state_dict())
