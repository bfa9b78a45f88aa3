"""Import: a checkpoint of another code base becomes a version of a registered model, like one that was trained here."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import encnet
from encnet.checkpoint_file import read_checkpoint
from encnet.layouts import find_layout
from pipeline import tracking
from pipeline.errors import InputError
from pipeline.model_card import (
    MAX_DESCRIPTION,
    dataset_licence,
    dataset_tags,
    join_sections,
    network_facts,
    network_name,
    origin_licence,
    two_columns,
    usage,
    what_it_is,
)
from pipeline.provenance import git_commit, git_tags
from pipeline.registration import example_image, register_model
from pipeline.registry import CANDIDATE, find_version
from pipeline.shards import DatasetInfo, read_dataset
from pipeline.start_weights import find_weights
from pipeline.storage import open_store

ANY_LAYOUT = "auto"


@dataclass(frozen=True, kw_only=True)
class ImportedCard:
    """The facts behind the card of an imported version."""

    network: encnet.ModelConfig
    dataset: DatasetInfo
    data_uri: str
    source: str
    """Where the checkpoint was."""
    layout: str
    """Of which code base its names are."""
    tensors_digest: str
    licence: str
    run_id: str
    commit: str
    step: int = 0

    def scores(self) -> dict[str, float]:
        return {}

    def tags(self) -> dict[str, str]:
        return {
            **dataset_tags(self.dataset),
            "network": network_name(self.network),
            "licence": self.licence,
            "imported from": self.source,
            "layout": self.layout,
            "git commit": self.commit,
        }

    def text(self, name: str, version: str) -> str:
        facts = {
            "network": network_facts(self.network),
            "checkpoint": f"`{self.source}`, with the names of {self.layout}",
            "digest of its tensors": f"`{self.tensors_digest}`",
            "classes": f"those of {self.dataset.name} (`{self.data_uri}`), in its order",
            "imported by": f"MLflow run `{self.run_id}`, with the code `{self.commit}`",
        }
        sections = {
            f"# {name}, version {version}": [
                what_it_is(self.network),
                "Imported: how it was trained, and on what, its publisher knows.",
            ],
            "## Made from": two_columns(facts),
            "## How to use it": usage(f"models:/{name}/{version}"),
            "## Limits": [
                "- Nothing of it was measured here when it was imported: evaluate it before it is used.",
                f"- That its classes are those of {self.dataset.name} was told on import: only their number is sure.",
                "- Images are normalised as ImageNet's: RGB, mean and standard deviation.",
            ],
            "## Licences": ["- Code: Apache-2.0.", f"- Weights: {self.licence}.", dataset_licence(self.dataset)],
        }
        return join_sections(sections)

    def description(self, name: str, version: str) -> str:
        return self.text(name, version)[:MAX_DESCRIPTION]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made, or found made before."""

    model_uri: str
    layout: str
    network: encnet.ModelConfig
    licence: str
    run_id: str
    run_url: str


def import_checkpoint(
    source: str,
    name: str,
    data: str,
    *,
    layout: str = ANY_LAYOUT,
    licence: str = "",
    experiment: str = "encnet",
) -> Imported:
    """Register the checkpoint at `source` as a version of `name`, with the alias candidate.

    The same tensors are imported once: done again, it goes on, or returns the version that there is.

    Args:
        source: a file on this machine, on S3 or on the web, of whatever `encnet.load_model` reads: no code in it runs.
        name: the registered model.
        data: URI of the data set whose classes the model has, in its order.
        layout: the code base that must have written it, in lower case, as `encnet.layouts` names it; "auto" takes any.
        licence: of the weights; '': what their address tells.
        experiment: of MLflow.

    Raises InputError where the checkpoint can't be read, is of another layout, or has not the data set's classes.
    """
    dataset = read_dataset(open_store(data))
    with tempfile.TemporaryDirectory(prefix="encnet-import-") as folder:
        weights = Path(folder) / "weights.safetensors"
        network, found, digest = _convert(source, weights, layout)
        if network.num_classes != len(dataset.classes):
            raise InputError(
                f"data: {dataset.name!r} has {len(dataset.classes)} classes, but the checkpoint has "
                f"{network.num_classes}: name the data set that it was trained on"
            )
        client = tracking.connect()
        tags = {"kind": "import", "imported from": source, "layout": found, **git_tags()}
        card = ImportedCard(
            network=network,
            dataset=dataset,
            data_uri=data,
            source=source,
            layout=found,
            tensors_digest=digest,
            licence=licence or origin_licence(source),
            run_id=tracking.open_run(client, experiment, f"import-{name}-{digest[:12]}", tags),
            commit=git_commit(),
        )
        version = find_version(f"models:/{name}/{_register(name, weights, card)}")
    return Imported(
        model_uri=version.uri,
        layout=found,
        network=network,
        licence=version.tags.get("licence", ""),
        run_id=card.run_id,
        run_url=tracking.run_url(client, card.run_id),
    )


def _register(name: str, weights: Path, card: ImportedCard) -> str:
    """Make the weights a version; the MLflow run that they come from ends with it."""
    tracker = tracking.Tracker(card.run_id)
    try:
        tracker.log_config({"model": asdict(card.network), "data": {"uri": card.data_uri}}, {})
        splits = card.dataset.splits
        example = example_image(open_store(card.data_uri), "val" if "val" in splits else next(iter(splits)))
        version = register_model(name, weights, card, example=example, tags={}, alias=CANDIDATE)
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return version


def _convert(source: str, weights: Path, layout: str) -> tuple[encnet.ModelConfig, str, str]:
    """Write the checkpoint as ours; returns its network, its layout's name and the digest of its tensors."""
    place: str | Path = source
    try:
        with find_weights(source) as place:
            tensors = read_checkpoint(place, progress=True).tensors
            found = find_layout(tensors)
            if found and layout not in (ANY_LAYOUT, found.name.lower()):
                raise ValueError(f"{source}: has the names of {found.name}, not of {layout}: leave --layout at auto")
            network, config = encnet.load_model(place)
    except ValueError as error:
        raise InputError(f"FILE: {str(error).removeprefix('MODEL: ').replace(str(place), source)}") from None
    assert found is not None  # or load_model had refused it
    encnet.save_weights(network, config, weights)
    return config, found.name, digest_tensors(network.state_dict())


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of names, shapes, types and values: the same whatever file and order they were in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
