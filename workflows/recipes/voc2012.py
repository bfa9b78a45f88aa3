"""PASCAL VOC 2012: 21 classes, in three stages, each of which begins with what the one before registered.

    encnet train voc2012_r101_coco --data s3://encnet/data/coco-stuff
    encnet train voc2012_r101_aug --data s3://encnet/data/voc2012-aug
    encnet train voc2012_r101 --data s3://encnet/data/voc2012

Each is a run of its own: interrupted, it goes on with `--resume NAME`; from other weights with `--start-weights`.
PyTorch-Encoding's first stage has COCO in VOC's 21 classes; here it is COCO-Stuff's 171, and the next stage takes all
but the classifiers. With COCO in VOC's classes at hand (layout `folder`): `--model.num-classes 21`.
"""

from __future__ import annotations

from dataclasses import replace

from encnet import ModelConfig
from pipeline.config import DataConfig, OptimConfig, RunConfig, ValidationConfig, WorkersConfig
from pipeline.transforms import TransformConfig
from workflows.recipes.imagenet import RESNET101

_OF_COCO = "encnet-voc2012-r101-coco"
_OF_AUG = "encnet-voc2012-r101-aug"


def voc2012_r101_coco() -> RunConfig:
    """Stage 1 of 3 for VOC 2012: ResNet-101 on COCO-Stuff.

    encnet train voc2012_r101_coco --data s3://encnet/data/coco-stuff

    About 8.5 hours on 4 A100 with bf16: an estimate, 4.9e18 FLOP at 40 TFLOP/s a GPU.
    No published score of its own. Not trained to the end by us.
    """
    return RunConfig(
        recipe="voc2012_r101_coco",
        registered_model=_OF_COCO,
        start_weights=RESNET101,
        precision="bf16",
        model=ModelConfig(num_classes=171, backbone="resnet101", stem="deep64", lateral=True, align_corners=True),
        data=DataConfig(threads=4),
        augment=TransformConfig(crop_size=(480, 480), base_size=520, rotate_degrees=10, blur=0.5),
        optim=OptimConfig(lr=0.004, epochs=30, batch_size=16),
        workers=WorkersConfig(num=4, cpus=4),
        validation=ValidationConfig(every_epochs=5),
    )


def voc2012_r101_aug() -> RunConfig:
    """Stage 2 of 3 for VOC 2012: on its 10,582 images.

    encnet train voc2012_r101_aug --data s3://encnet/data/voc2012-aug

    About 2 hours on 4 A100 with bf16: an estimate, 1.2e18 FLOP at 40 TFLOP/s a GPU.
    No published score of its own. Without the first stage: `--start-weights` with an address of
    `workflows/recipes/imagenet.py`. Not trained to the end by us.
    """
    coco = voc2012_r101_coco()
    return replace(
        coco,
        recipe="voc2012_r101_aug",
        registered_model=_OF_AUG,
        start_weights=f"models:/{_OF_COCO}@candidate",
        model=replace(coco.model, num_classes=21),
        optim=replace(coco.optim, lr=0.001, epochs=80),
        validation=replace(coco.validation, every_epochs=10),
    )


def voc2012_r101() -> RunConfig:
    """Stage 3 of 3, on VOC 2012 itself; published 85.9 %.

    encnet train voc2012_r101 --data s3://encnet/data/voc2012

    About 0.2 hours on 4 A100 with bf16: an estimate, 1.0e17 FLOP at 40 TFLOP/s a GPU.
    Published, test: 85.9 % mIoU with COCO, 82.9 % without. Not trained to the end by us.
    """
    aug = voc2012_r101_aug()
    return replace(
        aug,
        recipe="voc2012_r101",
        registered_model="",
        start_weights=f"models:/{_OF_AUG}@candidate",
        optim=replace(aug.optim, lr=0.0001, epochs=50),
    )
