"""What must be there before a run can start, each check by itself: `launch` does all of them, a dry run shows each."""

from __future__ import annotations

import os

from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.resume import is_used
from pipeline.shards import DatasetInfo, read_dataset
from pipeline.storage import open_store


def find_dataset(config: RunConfig) -> DatasetInfo:
    """The data set to train on. Raises InputError when none is named or there."""
    if not config.data.uri:
        raise InputError("data.uri: empty: name the data set with --data s3://BUCKET/PREFIX or a folder")
    return read_dataset(open_store(config.data.uri))


def check_classes(config: RunConfig, dataset: DatasetInfo) -> None:
    """Raise InputError when the network has another number of classes than the data set."""
    count = len(dataset.classes)
    if config.model.num_classes != count:
        raise InputError(
            f"model.num_classes: {config.model.num_classes}, but {config.data.uri} has {count} classes: "
            f"use a recipe for this data set, or --model.num-classes {count}"
        )


def find_storage(storage: str) -> str:
    """The URI below which runs keep their checkpoints: `storage`, where that is empty $ENCNET_STORAGE.

    Raises InputError where both are.
    """
    found = storage or os.environ.get("ENCNET_STORAGE", "")
    if not found:
        raise InputError("storage: empty: run 'encnet stack up', or give --storage s3://BUCKET/PREFIX or a folder")
    return found


def check_name(config: RunConfig, resume: bool) -> None:
    """Raise InputError when there is a run of that name already, and it is not to be resumed."""
    if not resume and is_used(find_storage(config.storage), config.name):
        raise InputError(
            f"name: {config.name!r} is used already: go on with --resume {config.name}, or choose another --name"
        )
