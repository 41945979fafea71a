"""Small PyTorch networks of the kinds that edge models are, each with an example input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Residual(nn.Module):
    """A block of ResNet, with a convolution on the shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


class Mobile(nn.Module):
    """A depthwise block with squeeze-and-excite, as in MobileNet v3."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 1),
            nn.BatchNorm2d(12),
            nn.Hardswish(),
            nn.Conv2d(12, 12, 3, 2, 1, groups=12),
            nn.BatchNorm2d(12),
            nn.ReLU6(),
            nn.Conv2d(12, 8, 1),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.body(x)
        return self.head((x * self.gate(x)).mean((2, 3)))


class Last(nn.Module):
    """A recurrent network of which the last step is classified."""

    def __init__(self, layers: nn.Module, width: int) -> None:
        super().__init__()
        self.layers, self.head = layers, nn.Linear(width, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


class Text(nn.Module):
    """Tokens with learned positions through a transformer encoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, batch_first=True, activation="gelu", norm_first=True
        )
        self.tokens, self.positions = nn.Embedding(20, 8), nn.Parameter(torch.randn(7, 8))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(self.tokens(x) + self.positions).mean(1))


def segmenter() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.GroupNorm(2, 8),
        nn.PReLU(8),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 1, 1),
    )


def time_series() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.GELU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3, dilation=2, padding=2, groups=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.LayerNorm(64),
    )


def classifier() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Residual(8, 8), *head)


PICTURES, SEQUENCES = (2, 3, 16, 16), (2, 7, 4)

NETS = {
    "resnet": (classifier, PICTURES),
    "mobile": (Mobile, PICTURES),
    "segmenter": (segmenter, PICTURES),
    "time_series": (time_series, (2, 4, 16)),
    "gru": (lambda: Last(nn.GRU(4, 6, 2, batch_first=True), 6), SEQUENCES),
    "lstm_both_ways": (
        lambda: Last(nn.LSTM(4, 6, batch_first=True, bidirectional=True), 12),
        SEQUENCES,
    ),
    "attention": (Attention, (2, 7, 8)),
    "text": (Text, (2, 7)),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Returns a network, its batch norms set to something, and an example."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make().eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net, torch.randint(0, 20, shape) if name == "text" else torch.randn(shape)
