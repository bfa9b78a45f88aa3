"""ContextScenes: the embedded data set, in which the same appearance is another class in another scene."""

from __future__ import annotations

from encnet import ModelConfig
from pipeline.config import LossConfig, OptimConfig, RunConfig, ValidationConfig
from pipeline.datasets.context_scenes import CLASSES
from pipeline.transforms import TransformConfig


def context_scenes_r18() -> RunConfig:
    """EncNet on a ResNet-18 from scratch, in about a minute on two CPU cores.

    encnet train context_scenes_r18 --data s3://encnet/data/context-scenes
    encnet train context_scenes_r18 --model.arch fcn --data s3://encnet/data/context-scenes
    """
    return RunConfig(
        recipe="context_scenes_r18",
        model=ModelConfig(
            num_classes=len(CLASSES),
            backbone="resnet18",
            output_stride=16,
            head_channels=128,
            lateral=True,
            input_scale=0.5,
        ),
        # Crops that show nearly the whole picture: without its landmark, a surface could be either class.
        augment=TransformConfig(crop_size=(96, 128), scale_min=0.75, scale_max=1.1),
        loss=LossConfig(class_weighting="enet"),
        optim=OptimConfig(
            kind="adamw", lr=0.002, head_lr_factor=1.0, weight_decay=0.01, warmup_steps=10, epochs=1.5, batch_size=12
        ),
        validation=ValidationConfig(every_epochs=1),
    )
