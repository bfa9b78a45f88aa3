"""EncNet: context encoding for semantic segmentation (Zhang et al., CVPR 2018), in torch and numpy only."""

from __future__ import annotations

from encnet.backbone import ResNet
from encnet.boundary import BoundaryFScore
from encnet.config import ModelConfig
from encnet.context import ContextEncoding
from encnet.cost import Cost, ModelCost, model_cost
from encnet.dropout import KeyedDropout2d, set_dropout_key
from encnet.encoding import Encoding
from encnet.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from encnet.inference import predict, predict_classes, predict_with_confidence
from encnet.losses import BatchTotals, LossParts, SegmentationLoss, batch_totals
from encnet.metrics import ConfusionMatrix
from encnet.model import SegmentationNet, SegmentationOutput, build_model
from encnet.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm
from encnet.weights import load_model, load_weights, read_config, save_weights

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BatchTotals",
    "BoundaryFScore",
    "ConfusionMatrix",
    "ContextEncoding",
    "Cost",
    "Encoding",
    "KeyedDropout2d",
    "LossParts",
    "ModelConfig",
    "ModelCost",
    "ResNet",
    "SegmentationLoss",
    "SegmentationNet",
    "SegmentationOutput",
    "SyncBatchNorm",
    "batch_totals",
    "build_model",
    "convert_sync_batchnorm",
    "load_model",
    "load_weights",
    "model_cost",
    "normalize",
    "predict",
    "predict_classes",
    "predict_with_confidence",
    "read_config",
    "save_weights",
    "set_dropout_key",
]
