"""ContextScenes: the embedded data set, in which the same appearance is another class in another scene."""

from __future__ import annotations

from encnet import ModelConfig
from pipeline.config import LossConfig, OptimConfig, RunConfig, ValidationConfig
from pipeline.datasets.context_scenes import CLASSES
from pipeline.transforms import TransformConfig


def context_scenes_r18() -> RunConfig:
    """ResNet-18 on generated scenes, a minute on 2 cores.

    encnet train context_scenes_r18 --data s3://encnet/data/context-scenes
    encnet train context_scenes_r18 --model.arch fcn --data s3://encnet/data/context-scenes

    2 cores of an Intel Xeon (AVX512), 2 workers: a third of a minute, from scratch, 43.9 % mIoU; the FCN 37.4 %. The
    data set is made for this: nothing is published.
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
