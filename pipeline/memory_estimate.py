"""What a worker's training step holds in memory, found by running the step on tensors without contents.

The recipe's own network goes forward and backward and its optimizer steps, on fake tensors, which have shapes and no
data: seconds of work, whatever the size. Every tensor counts from when it is made until it is gone. This is what torch
reports as allocated on GPUs; there the CUDA context, cuDNN's workspaces and the allocator's reserve come on top. A
process on CPUs takes some 0.5 GB for the programs, and glibc keeps back up to 0.4 times the tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import encnet
from encnet.upsampled_loss import CPU_STRIP_ELEMENTS, GPU_STRIP_ELEMENTS
from pipeline.config import RunConfig
from pipeline.optim import build_optimizer, freeze, trained
from pipeline.train_setup import memory_format

_AUTOCAST = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of the tensors that one worker holds."""

    images: int
    """Images of a micro-step that the fullest worker has."""
    weights: int
    """Parameters and BatchNorm's statistics."""
    average: int
    """The moving average of the weights."""
    gradients: int
    """All of them, which are there at once only after the backward pass."""
    optimizer: int
    """The optimizer's state."""
    activations: int
    """What the forward pass leaves for the backward pass, images and labels among it."""
    peak: int
    """The most that is held at once."""


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, and are still there.

    Attributes:
        live: bytes now.
        peak: the most there was at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata  # views have their base's
        if identity not in self._known:
            self._known.add(identity)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, identity, storage.nbytes())

    def _forget(self, identity: int, num_bytes: int) -> None:
        self._known.discard(identity)
        self.live -= num_bytes


def step_memory(config: RunConfig, num_workers: int, *, gpu: bool) -> StepMemory:
    """What a step takes on the fullest of `num_workers` workers. ValueError for a crop too small for the network."""
    with LiveTensors() as tensors, FakeTensorMode():
        step = _Step(config, num_workers, gpu=gpu)
        after_forward, before = step.run(tensors)
        return StepMemory(
            images=step.images,
            weights=_num_bytes(step.net.state_dict().values()),
            average=_num_bytes(step.average.state_dict().values()) if step.average else 0,
            gradients=_num_bytes(trained(step.net)),
            optimizer=_num_bytes(leaf for leaf in tree_leaves(step.optimizer.state_dict()) if isinstance(leaf, Tensor)),
            activations=after_forward - before,
            peak=tensors.peak,
        )


class _Step:
    """The training step of the fullest worker. Built and run on fake tensors."""

    def __init__(self, config: RunConfig, num_workers: int, *, gpu: bool) -> None:
        self.config, self.gpu = config, gpu
        self.images = -(-config.optim.group_size // num_workers)
        self.micro_steps = config.optim.batch_size // config.optim.group_size
        self.keeps_gradients = num_workers > 1  # DDP's buckets stay
        self.net = encnet.convert_sync_batchnorm(encnet.build_model(config.model))
        freeze(self.net, config.optim)
        self.optimizer = build_optimizer(self.net, config.optim)
        # As large as the network; fake tensors can't be copied by copy.deepcopy.
        self.average = encnet.build_model(config.model) if config.optim.ema_decay else None
        self._begin()

    def _begin(self) -> None:
        """Make what the first step makes and all others have: the optimizer's state and DDP's buckets."""
        for parameter in trained(self.net):
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def run(self, tensors: LiveTensors) -> tuple[int, int]:
        """Bytes that are held after the last forward pass, and before it."""
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        for _ in range(min(self.micro_steps, 2)):  # the third is as the second
            before = tensors.live
            loss = self._forward()
            after_forward = tensors.live
            loss.backward()
            del loss
        self.optimizer.step()
        return after_forward, before

    def _forward(self) -> Tensor:
        height, width = self.config.augment.crop_size
        precision = self.config.precision
        layout = memory_format(torch.device("cuda" if self.gpu else "cpu"), self.config)
        images = encnet.normalize(torch.zeros(self.images, height, width, 3, dtype=torch.uint8), layout)
        labels = torch.zeros(self.images, height, width, dtype=torch.int64)
        encnet.set_dropout_key(self.net, 0, 0, torch.zeros(self.images, dtype=torch.int64))
        with torch.autocast("cpu", dtype=_AUTOCAST[precision], enabled=precision != "float32"):
            output = self.net(images, upsample=False)
        strip = GPU_STRIP_ELEMENTS if self.gpu else CPU_STRIP_ELEMENTS
        loss = torch.zeros(())
        for logits in (output.logits, output.aux_logits):
            if logits is not None:
                ids, weights = labels.where(labels != 255, 0), (labels != 255).float()
                loss = loss + _PixelLoss.apply(logits, ids, weights, min(strip, ids.numel() * logits.shape[1]))
        return loss if output.se_logits is None else loss + output.se_logits.float().sum()


class _PixelLoss(torch.autograd.Function):
    """The memory of `encnet.upsampled_loss`, whose strips are cut by numbers, which fake tensors have none of."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, weights: Tensor, strip: int) -> Tensor:
        ctx.save_for_backward(torch.zeros_like(logits))
        return torch.zeros(strip, dtype=logits.dtype).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
