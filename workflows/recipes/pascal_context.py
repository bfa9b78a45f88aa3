"""PASCAL-Context: 59 classes, 4,998 train and 5,105 val images. As PyTorch-Encoding trains on it.

The variant of 60 classes has the background too: `--model.num-classes 60` on data of the layout `pascal-context-60`.
PyTorch-Encoding's own stem is deep128; for deep64 there are pretrained weights at hand.
"""

from __future__ import annotations

from dataclasses import replace

from encnet import ModelConfig
from pipeline.config import DataConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET50, RESNET101


def pcontext_r50() -> RunConfig:
    """ResNet-50 on PASCAL-Context; published 49.2 %.

    encnet train pcontext_r50 --data s3://encnet/data/pascal-context-59
    encnet train pcontext_r50 --data s3://encnet/data/pascal-context-59 --model.arch fcn

    About 0.7 hours on 4 A100 with bf16: an estimate, 3.9e17 FLOP at 40 TFLOP/s a GPU.
    Published, val, 59 classes: 49.2 % mIoU, 79.4 % pixAcc; without the SE-loss 47.6 % and 78.1 %
    (`--model.se-loss no`); FCN 41.0 % and 73.4 %. The paper trains 50 epochs. Not trained to the end by us.
    """
    return RunConfig(
        recipe="pcontext_r50",
        start_weights=RESNET50,
        precision="bf16",
        model=ModelConfig(num_classes=59, backbone="resnet50", stem="deep64", lateral=True, align_corners=True),
        data=DataConfig(threads=4),
        augment=TransformConfig(crop_size=(480, 480), base_size=520, rotate_degrees=10, blur=0.5),
        optim=OptimConfig(lr=0.001, epochs=80, batch_size=16),
        workers=WorkersConfig(num=4, cpus=4),
        validation=ValidationConfig(every_epochs=10),
    )


def pcontext_r101() -> RunConfig:
    """ResNet-101 on PASCAL-Context; published 51.7 %.

    encnet train pcontext_r101 --data s3://encnet/data/pascal-context-59

    About 1 hour on 4 A100 with bf16: an estimate, 5.5e17 FLOP at 40 TFLOP/s a GPU.
    Published, val, 59 classes: 51.7 % mIoU, 80.4 % pixAcc; multi-scale 52.6 % and 81.2 %. (The paper's headline of
    51.7 % is 52.6 * 59 / 60.) Not trained to the end by us.
    """
    small = pcontext_r50()
    return replace(
        small,
        recipe="pcontext_r101",
        start_weights=RESNET101,
        model=replace(small.model, backbone="resnet101"),
    )
