"""CamVid: 11 classes of street scenes, 367 train and 101 val frames at 480x360."""

from __future__ import annotations

from encnet import ModelConfig
from pipeline.config import LossConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET50


def camvid_r18() -> RunConfig:
    """ResNet-18 on CamVid, from scratch on two CPU cores.

    encnet train camvid_r18 --data s3://encnet/data/camvid

    2 cores of an Intel Xeon (AVX512), 2 workers: 12.6 minutes, 51.5 % mIoU and 83.5 % pixAcc on val.
    """
    return RunConfig(
        recipe="camvid_r18",
        # Half size: a quarter of the work. Labels, loss and scores stay at full size.
        model=ModelConfig(
            num_classes=11, backbone="resnet18", output_stride=16, head_channels=128, lateral=True, input_scale=0.5
        ),
        augment=TransformConfig(crop_size=(288, 384), scale_min=0.75, scale_max=1.5),
        loss=LossConfig(class_weighting="enet"),
        optim=OptimConfig(
            kind="adamw", lr=0.001, head_lr_factor=1.0, weight_decay=0.01, warmup_steps=30, epochs=18, batch_size=8
        ),
        validation=ValidationConfig(every_epochs=3),
    )


def camvid_r50() -> RunConfig:
    """ResNet-50 on CamVid, from ImageNet's weights.

    encnet train camvid_r50 --data s3://encnet/data/camvid
    encnet train camvid_r50 --data s3://encnet/data/camvid --model.arch fcn

    About 0.3 hours on one A100 with bf16: an estimate, 4.0e16 FLOP at 40 TFLOP/s a GPU.
    No EncNet's score on CamVid is published. Not trained to the end by us.
    """
    return RunConfig(
        recipe="camvid_r50",
        start_weights=RESNET50,
        precision="bf16",
        model=ModelConfig(num_classes=11, backbone="resnet50", stem="deep64", lateral=True),
        augment=TransformConfig(crop_size=(360, 480)),
        loss=LossConfig(class_weighting="enet"),
        optim=OptimConfig(lr=0.005, epochs=150, batch_size=8),
        workers=WorkersConfig(num=1),
        validation=ValidationConfig(every_epochs=10),
    )
