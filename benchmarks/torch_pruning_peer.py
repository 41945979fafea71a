"""Torch-Pruning on ResNet-8, for `structured_pruning.py`, in an environment without trimtab.

    python benchmarks/torch_pruning_peer.py FOLDER

The folder holds weights.npz, what Keras' `get_weights` gives, and train.npz with x and y; it gets
pruned.onnx. Group magnitude (DepGraph), the same ratio in every group, 30 % in three steps, each
followed by an epoch of Adam at 1e-3 along half a cosine, batch 128.
Needs: torch, torch-pruning 1.6, onnx.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

SEED, STEPS, BATCH, RATE, RATIO = 7, 3, 128, 1e-3, 0.3


class ConvolutionNorm(nn.Module):
    """A convolution padded as Keras does it, and its batch norm."""

    def __init__(self, taken: int, made: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()
        self.convolution = nn.Conv2d(taken, made, 3, stride, 0 if stride == 2 else 1)
        self.norm = nn.BatchNorm2d(made, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns (batch, channels, height, width), as all forward passes here."""
        return self.norm(self.convolution(self.pad(x)))


class Block(nn.Module):
    """A residual block, with a 1x1 shortcut where it halves the picture."""

    def __init__(self, taken: int, made: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            ConvolutionNorm(taken, made, stride),
            ConvolutionNorm(made, made, 1),
        )
        self.shortcut = nn.Conv2d(taken, made, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Adds the two ways."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet8(nn.Module):
    """The float model, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvolutionNorm(1, 16, 1)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits, (batch, 10)."""
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    model = ResNet8()
    with np.load(folder / "weights.npz") as archive:
        set_weights(model, [archive[name] for name in archive.files])
    with np.load(folder / "train.npz") as archive:
        x, y = torch.tensor(archive["x"]).permute(0, 3, 1, 2), torch.tensor(archive["y"])
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        x[:1],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=RATIO,
        iterative_steps=STEPS,
        ignored_layers=[model.head],
    )
    for _ in range(STEPS):
        pruner.step()
        train(model, x, y)
    model.eval()
    torch.onnx.export(
        model,
        (x[:2],),
        folder / "pruned.onnx",
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def set_weights(model: ResNet8, arrays: list[np.ndarray]) -> None:
    """Copies weights in Keras' order: by kind and size of kernel they come in the same order."""
    kernels = [i for i, array in enumerate(arrays) if array.ndim == 4]
    scales = [i for i, array in enumerate(arrays) if array.ndim == 1 and i - 1 not in kernels]
    dense = next(i for i, array in enumerate(arrays) if array.ndim == 2)
    scales = [i for i in scales if i != dense + 1][::4]
    three = iter([i for i in kernels if arrays[i].shape[0] == 3])
    one = iter([i for i in kernels if arrays[i].shape[0] == 1])
    norms = iter(scales)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            i = next(three if module.kernel_size == (3, 3) else one)
            copy(module.weight, arrays[i].transpose(3, 2, 0, 1))
            copy(module.bias, arrays[i + 1])
        elif isinstance(module, nn.BatchNorm2d):
            i = next(norms)
            targets = (module.weight, module.bias, module.running_mean, module.running_var)
            for target, array in zip(targets, arrays[i : i + 4], strict=True):
                copy(target, array)
    copy(model.head.weight, arrays[dense].T)
    copy(model.head.bias, arrays[dense + 1])


def copy(target: Tensor | None, array: np.ndarray) -> None:
    assert target is not None
    with torch.no_grad():
        target.copy_(torch.tensor(np.ascontiguousarray(array)))


def train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), RATE, weight_decay=1e-4)
    batches = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED)).split(BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    main()
