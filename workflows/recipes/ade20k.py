"""ADE20K: 150 classes, 20,210 train and 2,000 val images. The schedule is the paper's, the crops PyTorch-Encoding's.

PyTorch-Encoding went over to a rate of 0.004 and 180 epochs: `--optim.lr 0.004 --optim.epochs 180`. Its own stem is
deep128, mmsegmentation's and ours here deep64, for which there are pretrained weights at hand.
"""

from __future__ import annotations

from dataclasses import replace

from encnet import ModelConfig
from pipeline.config import DataConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET50, RESNET101


def ade20k_r50() -> RunConfig:
    """ResNet-50 on ADE20K, 150 classes; published 41.1 %.

    encnet train ade20k_r50 --data s3://encnet/data/ade20k
    encnet train ade20k_r50 --data s3://encnet/data/ade20k --model.arch fcn

    About 3.3 hours on 4 A100 with bf16: an estimate, 1.9e18 FLOP at 40 TFLOP/s a GPU.
    Published, val, multi-scale: 41.11 % mIoU, 79.73 % pixAcc; FCN 34.38 % mIoU. mmsegmentation's EncNet, 512x512 and
    160,000 steps of 16: 40.10 %, 41.71 % multi-scale. Not trained to the end by us.
    """
    return RunConfig(
        recipe="ade20k_r50",
        start_weights=RESNET50,
        precision="bf16",
        model=ModelConfig(num_classes=150, backbone="resnet50", stem="deep64", align_corners=True),
        data=DataConfig(threads=4),
        augment=TransformConfig(crop_size=(480, 480), base_size=520, rotate_degrees=10, blur=0.5),
        optim=OptimConfig(lr=0.01, epochs=120, batch_size=16),
        workers=WorkersConfig(num=4, cpus=4),
        validation=ValidationConfig(every_epochs=10),
    )


def ade20k_r101() -> RunConfig:
    """ResNet-101 on ADE20K, larger crops; published 44.7 %.

    encnet train ade20k_r101 --data s3://encnet/data/ade20k

    About 7 hours on 4 A100 with bf16: an estimate, 4.2e18 FLOP at 40 TFLOP/s a GPU.
    Published, val, multi-scale: 44.65 % mIoU, 81.69 % pixAcc. Not trained to the end by us.
    """
    small = ade20k_r50()
    return replace(
        small,
        recipe="ade20k_r101",
        start_weights=RESNET101,
        model=replace(small.model, backbone="resnet101"),
        augment=replace(small.augment, crop_size=(576, 576), base_size=640),
    )
