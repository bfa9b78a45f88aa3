"""CamVid: 11 classes of street scenes, 367 train and 101 val frames at 480x360."""

from __future__ import annotations

from encnet import ModelConfig
from pipeline.config import LossConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET50


def camvid_r18() -> RunConfig:
    """ResNet-18 on CamVid, from scratch on two CPU cores.

    encnet train camvid_r18 --data s3://encnet/data/camvid

    2 cores of an Intel Xeon with AMX, 1 worker: 58 minutes, 63.9 % mIoU and 91.8 % pixAcc on val (59 % after 22).
    On a CPU without bf16 arithmetic (AVX512-BF16, AMX) add --precision float32, and expect 3 times as long.
    """
    return RunConfig(
        recipe="camvid_r18",
        precision="bf16",
        # Poles and signs are a few pixels wide: maps of stride 8 and 4 find them.
        model=ModelConfig(
            num_classes=11, backbone="resnet18", output_stride=16, head_channels=128, lateral=True, detail_channels=48
        ),
        # Frames of few drives, seen for less than an hour: more variety than this is not learned in that time.
        augment=TransformConfig(crop_size=(288, 384), scale_min=0.75, scale_max=1.5),
        # Without weights the rare classes are hardly found, with whole ones too much is taken for them.
        loss=LossConfig(class_weighting="enet", class_weight_power=0.5),
        optim=OptimConfig(lr=0.05, head_lr_factor=1.0, weight_decay=5e-4, warmup_steps=60, epochs=85, batch_size=8),
        workers=WorkersConfig(num=1, cpus=2),
        validation=ValidationConfig(every_epochs=10),
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
