"""Backbones pretrained on ImageNet, which the recipes of the published results begin with.

ResNets whose first convolution is three of 3x3 (`stem="deep64"`), from OpenMMLab. The worker of rank 0 fetches the file
and its node keeps it, in torch's hub cache. Without the web: fetch it elsewhere and give `--start-weights`.
"""

from __future__ import annotations

_ADDRESS = "https://download.openmmlab.com/pretrain/third_party"
RESNET50 = f"{_ADDRESS}/resnet50_v1c-2cccc1ad.pth"
RESNET101 = f"{_ADDRESS}/resnet101_v1c-e67eebb6.pth"
