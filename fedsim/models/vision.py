"""Models for images (and flat inputs), as functions from sizes to an `nn.Module` of plain layers.

Inputs are [b, channels, height, width] for the convolutional ones, [b, ...] for the rest.
"""

from __future__ import annotations

from torch import Tensor, nn


def softmax_regression(num_inputs: int, num_classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, num_classes))


def mlp(num_inputs: int, hidden: int, num_classes: int) -> nn.Module:
    """One hidden layer with ReLU."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(num_inputs, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
    )


def lenet(num_classes: int, channels: int = 1) -> nn.Module:
    """A LeNet-like network for 28x28 images; 44,426 parameters with 10 classes, one channel.

    As in LeCun, Bottou, Bengio, Haffner (1998) it is smooth: tanh, average pooling, and weights
    scaled for tanh (Glorot). With ReLU and max-pooling one flipped bit grows to percents of the
    loss within three rounds; here it stays a flipped bit (docs/decisions/0009-smooth-lenet.md).
    """
    model = nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5),  # 28 -> 24
        nn.Tanh(),
        nn.AvgPool2d(2),  # -> 12
        nn.Conv2d(6, 16, kernel_size=5),  # -> 8
        nn.Tanh(),
        nn.AvgPool2d(2),  # -> 4
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, num_classes),
    )
    return _glorot(model)


def pfl_cnn(num_classes: int = 10) -> nn.Module:
    """The network of the pfl-research CIFAR-10 benchmark (arXiv:2404.06430); 1,626,442 parameters.

    Weights are Glorot-uniform and biases zero, as there.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3),  # 32 -> 30
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3),  # -> 28
        nn.ReLU(),
        nn.MaxPool2d(2),  # -> 14
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, num_classes),
    )
    return _glorot(model)


def _glorot(model: nn.Sequential) -> nn.Sequential:
    """Glorot-uniform weights and zero biases, in place."""
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # every layer here has one
    return model


class _Residual(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut (He et al., 2015)."""

    def __init__(self, wide_in: int, wide_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(wide_in, wide_out, 3, stride, padding=1, bias=False),
            nn.GroupNorm(groups, wide_out),
            nn.ReLU(),
            nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False),
            nn.GroupNorm(groups, wide_out),
        )
        same = stride == 1 and wide_in == wide_out
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(wide_in, wide_out, 1, stride, bias=False), nn.GroupNorm(groups, wide_out)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, wide_in, h, w] -> [b, wide_out, h / stride, w / stride]."""
        result: Tensor = nn.functional.relu(self.body(x) + self.shortcut(x))
        return result


def resnet18_gn(num_classes: int, groups: int = 2) -> nn.Module:
    """ResNet-18 for 32x32 images with GroupNorm for BatchNorm (Hsieh et al., 2020)."""
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.GroupNorm(groups, 64), nn.ReLU()]
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [
        block
        for wide_in, wide_out, stride in stages
        for block in (
            _Residual(wide_in, wide_out, stride, groups),
            _Residual(wide_out, wide_out, 1, groups),
        )
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)]
    return nn.Sequential(*stem, *blocks, *head)
