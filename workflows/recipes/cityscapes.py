"""Cityscapes: 19 classes, 2,975 train and 500 val images of 1024x2048. As mmsegmentation trains on it.

It divides the loss by all pixels and decays every parameter; here it is the labelled pixels, and neither biases nor
normalisation decay. For crops of 769x769: `--augment.crop-size 769,769 --model.align-corners yes`.
"""

from __future__ import annotations

from dataclasses import replace

from encnet import ModelConfig
from pipeline.config import DataConfig, LossConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET50, RESNET101


def cityscapes_r50() -> RunConfig:
    """ResNet-50 on Cityscapes; published 77.9 %.

    encnet train cityscapes_r50 --data s3://encnet/data/cityscapes
    encnet train cityscapes_r50 --data s3://encnet/data/cityscapes --model.arch fcn

    About 2 hours on 4 A100 with bf16: an estimate, 1.2e18 FLOP at 40 TFLOP/s a GPU.
    Published by mmsegmentation, val, 80,000 steps: 77.94 % mIoU. Not trained to the end by us.
    """
    return RunConfig(
        recipe="cityscapes_r50",
        start_weights=RESNET50,
        precision="bf16",
        model=ModelConfig(num_classes=19, backbone="resnet50", stem="deep64"),
        data=DataConfig(threads=4),
        augment=TransformConfig(crop_size=(512, 1024), cat_max_ratio=0.75, photometric=True),
        loss=LossConfig(aux_weight=0.4),
        optim=OptimConfig(lr=0.01, min_lr=1e-4, head_lr_factor=1.0, weight_decay=5e-4, max_steps=80_000, batch_size=8),
        workers=WorkersConfig(num=4, cpus=4),
        validation=ValidationConfig(every_epochs=20, batch_size=1),
    )


def cityscapes_r101() -> RunConfig:
    """ResNet-101 on Cityscapes; published 78.6 %.

    encnet train cityscapes_r101 --data s3://encnet/data/cityscapes

    About 3 hours on 4 A100 with bf16: an estimate, 1.8e18 FLOP at 40 TFLOP/s a GPU.
    Published by mmsegmentation, val, 80,000 steps: 78.55 % mIoU. Not trained to the end by us.
    """
    small = cityscapes_r50()
    return replace(
        small,
        recipe="cityscapes_r101",
        start_weights=RESNET101,
        model=replace(small.model, backbone="resnet101"),
    )
