"""The model card of a registered version: what it is, what it was made from, what it reaches and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import encnet
from pipeline.config import RunConfig
from pipeline.shards import DatasetInfo

MAX_DESCRIPTION = 5000
"""Characters that MLflow keeps of a version's description."""
_WEAK = 0.2
_ORIGINS = {
    "download.pytorch.org": "torchvision's: BSD-3-Clause; trained on ImageNet, whose terms are for research",
    "openmmlab": "from OpenMMLab's model zoo, Apache-2.0; those trained on ImageNet share its terms, for research",
    "hangzh": "PyTorch-Encoding's: MIT; those trained on ImageNet share its terms, for research",
    "models:/": "of the registered model they come from: see its card",
    "runs:/": "of the run they come from: see there",
}
"""What an address of start weights tells about their licence."""


class Card(Protocol):
    """What is told of a version when it is registered. `text` and `description` are Markdown."""

    @property
    def run_id(self) -> str:
        """MLflow's run that the weights come from."""

    @property
    def step(self) -> int:
        """At which they were taken."""

    @property
    def dataset(self) -> DatasetInfo:
        """What the model's classes are those of."""

    def scores(self) -> dict[str, float]:
        """Metrics of the version, by name."""

    def tags(self) -> dict[str, str]:
        """The few facts that a person looks for in a list of versions."""

    def text(self, name: str, version: str) -> str:
        """The whole card."""

    def description(self, name: str, version: str) -> str:
        """The card in no more than MAX_DESCRIPTION characters."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The facts behind the card of a trained model."""

    config: RunConfig
    dataset: DatasetInfo
    run_id: str
    commit: str
    step: int
    """At which the weights were taken, of `steps`."""
    steps: int
    miou: float
    """On the validation split, in 0..1."""
    iou: Mapping[str, float]
    """Per class; NaN for one in neither truth nor prediction. May be empty: not known."""

    def scores(self) -> dict[str, float]:
        return {"val/best_miou": self.miou}

    def tags(self) -> dict[str, str]:
        source = self.config.start_weights
        return {
            **dataset_tags(self.dataset),
            "network": network_name(self.config.model),
            "licence": f"start weights: {origin_licence(source)}" if source else "of the training data alone",
        }

    def text(self, name: str, version: str) -> str:
        """The whole card."""
        return self._write(name, version, self._scores())

    def description(self, name: str, version: str) -> str:
        """The card in no more characters than MLflow keeps: with many classes only the best and the worst."""
        text = self.text(name, version)
        return text if len(text) <= MAX_DESCRIPTION else self._write(name, version, self._scores(10))[:MAX_DESCRIPTION]

    def _write(self, name: str, version: str, scores: list[str]) -> str:
        sections = {
            f"# {name}, version {version}": self._summary(),
            "## Made from": self._facts(),
            "## Scores of the classes": scores,
            "## How to use it": usage(f"models:/{name}/{version}"),
            "## Limits": self._limits(),
            "## Licences": self._licences(),
        }
        return join_sections(sections)

    def _summary(self) -> list[str]:
        split = self.config.data.val_split
        averaged = ", averaged over steps" if self.config.optim.ema_decay else ""
        return [
            what_it_is(self.config.model),
            f"**mIoU {100 * self.miou:.2f} % on {split} of {self.dataset.name}**, with the weights of step "
            f"{self.step} of {self.steps}{averaged}.",
        ]

    def _facts(self) -> list[str]:
        config, optim = self.config, self.config.optim
        train, val = (self.dataset.splits[split] for split in (config.data.train_split, config.data.val_split))
        crop = " x ".join(str(side) for side in config.augment.crop_size)
        rows = {
            "network": network_facts(config.model),
            "data set": f"{self.dataset.name} (`{config.data.uri}`): {train.samples} samples to train on, "
            f"{val.samples} to validate",
            "its digest": f"`{self.dataset.digest}`",
            "recipe": f"{config.recipe}: {optim.kind}, lr {optim.lr:g} {optim.schedule}, batch {optim.batch_size}, "
            f"crops {crop}, {config.precision}, seed {config.seed}",
            "start weights": config.start_weights or "none: random",
            "run": f"{config.name} (MLflow run `{self.run_id}`; its `config.json` is the whole configuration)",
            "code": f"`{self.commit}`",
        }
        return two_columns(rows)

    def _scores(self, most: int = 0) -> list[str]:
        """A table of IoU per class; of more than `most` classes the best and the worst, if that is not 0."""
        rows = [f"| {name} | {100 * iou:.2f} |" for name, iou in self.iou.items()]
        if most and len(rows) > most:
            known = {name: iou for name, iou in self.iou.items() if isfinite(iou)}
            ranked = [f"| {name} | {100 * known[name]:.2f} |" for name in sorted(known, key=known.get, reverse=True)]  # type: ignore[arg-type]
            rows = [*ranked[: most // 2], "| ... | |", *ranked[len(ranked) - most // 2 :]]
        rows = [row.replace("| nan |", "| – |") for row in rows]
        return ["| class | IoU % |", "|---|---:|", *rows] if rows else []

    def _limits(self) -> list[str]:
        split = self.config.data.val_split
        weak = [f"{name} ({100 * iou:.0f} %)" for name, iou in self.iou.items() if iou < _WEAK]
        unseen = [name for name, iou in self.iou.items() if not isfinite(iou)]
        few = f"{', '.join(weak[:20])}{' and others' if len(weak) > 20 else ''}"
        lines = [
            f"- It has only seen {self.dataset.name}: on pictures of another kind it may be wrong anywhere, and gives "
            "no sign of it. It knows no class but its own.",
            f"- Which weights to keep was decided on {split}: on pictures that nobody chose by, expect a little less.",
            "- The score is of whole images at their own size, one scale, not mirrored. Images must have at least "
            "32 x 32 pixels.",
        ]
        lines += [f"- Weak at: {few}."] if weak else []
        lines += [f"- Not measured, since {split} has none: {', '.join(unseen)}."] if unseen else []
        return lines

    def _licences(self) -> list[str]:
        source = self.config.start_weights
        lines = ["- Code: Apache-2.0."]
        lines += [f"- Start weights: {origin_licence(source)}."] if source else []
        return [*lines, dataset_licence(self.dataset)]


def origin_licence(source: str) -> str:
    """What the address of weights tells about their licence."""
    known = (terms for part, terms in _ORIGINS.items() if part in source)
    return next(known, "not known: ask where they come from")


def dataset_licence(dataset: DatasetInfo) -> str:
    """A line on the terms of the data set."""
    return f"- {dataset.name}: its publisher's terms hold for what is trained on it; see there."


def dataset_tags(dataset: DatasetInfo) -> dict[str, str]:
    """The data set by name and by digest."""
    return {"data set": dataset.name, "data set digest": dataset.digest}


def network_name(model: encnet.ModelConfig) -> str:
    """Such as "EncNet, resnet50"."""
    return f"{'EncNet' if model.arch == 'encnet' else 'FCN'}, {model.backbone}"


def what_it_is(model: encnet.ModelConfig) -> str:
    """A sentence for who has never heard of it."""
    what = "EncNet" if model.arch == "encnet" else "FCN"
    return f"{what} on a {model.backbone} that labels each pixel of an image with one of {model.num_classes} classes."


def network_facts(model: encnet.ModelConfig) -> str:
    """Shape and size of a network, for a table."""
    parameters = encnet.model_cost(model).inference.parameters / 1e6
    return f"{model.arch}, {model.backbone}, output stride {model.output_stride}, {parameters:.1f} M parameters"


def two_columns(rows: Mapping[str, str]) -> list[str]:
    """A table of facts."""
    return ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())]


def join_sections(sections: Mapping[str, list[str]]) -> str:
    """Title -> lines as one text; sections without lines are left out."""
    return "\n\n".join("\n".join([title, "", *lines]) for title, lines in sections.items() if lines) + "\n"


def usage(uri: str) -> list[str]:
    """How to call the model, in Python and from a shell."""
    return [
        "```python",
        "import mlflow",
        f'model = mlflow.pyfunc.load_model("{uri}")',
        "ids = model.predict(images)  # (B, H, W, 3) uint8 RGB -> (B, H, W) class ids",
        'model.predict(images, params={"probabilities": True})  # a dict with (B, C, H, W) probabilities, too',
        "```",
        "```sh",
        f"encnet evaluate {uri} --data URI --split val",
        f"mlflow models serve --model-uri {uri} --env-manager local   # takes JPEG and PNG files in base64, too",
        f"encnet models pull {uri}   # weights, configuration and this card as files",
        "```",
    ]
