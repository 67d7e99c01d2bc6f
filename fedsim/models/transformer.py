"""A small transformer encoder for text, and the layers that it needs beside torch's.

Tokens are integers, 0 is padding. There is no BatchNorm and no control flow, so that it can be
traced, stacked, and run under `vmap`.

Source: Vaswani et al. (2017), arXiv:1706.03762, with the norms before the layers (Xiong et al.,
2020, arXiv:2002.04745) and the mean over words in place of a first token.

Shapes: L words of a text, w the width, h heads, V words known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedsim.core.errors import InputError

PADDING = 0
_MASKED = -1e9  # not -inf: a text of padding alone must not become NaN


class Positions(nn.Module):
    """Adds a learned vector to each position of a text. weight: [L, w]."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[..., l, w] -> [..., l, w], for texts of l words, at most L."""
        return x + self.weight[: x.shape[-2]]


class Attention(nn.Module):
    """Scaled dot-product attention among the words of each text. Has no parameters.

    query, key, value: [..., L, w]; tokens: [..., L]. Padding is masked.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
        """The values, weighted by attention, [..., L, w]."""
        q, k, v = (self._split(part) for part in (query, key, value))  # [..., h, L, w / h]
        hidden = (tokens == PADDING)[..., None, None, :].to(q.dtype) * _MASKED
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2) + hidden
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed.transpose(-2, -3).flatten(-2)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-2, -3)


class MeanOfWords(nn.Module):
    """The mean over the words of each text that are not padding."""

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """X [..., L, w], tokens [..., L] -> [..., w]."""
        real = (tokens != PADDING).to(x.dtype).unsqueeze(-1)
        return (x * real).sum(-2) / real.sum(-2).clamp(min=1)


class Block(nn.Module):
    """Attention and a two-layer network, each with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention = Attention(heads)
        self.norm_2 = nn.LayerNorm(width)
        self.dense_1 = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.dense_2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """X [..., L, w], tokens [..., L] -> [..., L, w]."""
        normed = self.norm_1(x)
        heads = self.query(normed), self.key(normed), self.value(normed)
        x = x + self.out(self.attention(*heads, tokens))
        result: Tensor = x + self.dense_2(self.gelu(self.dense_1(self.norm_2(x))))
        return result


class Encoder(nn.Module):
    """Words, positions, blocks, the mean over words, and a linear head."""

    def __init__(
        self, *, vocabulary: int, length: int, width: int, depth: int, heads: int, num_classes: int
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = Positions(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.mean = MeanOfWords()
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [..., L] -> logits [..., C]."""
        x = self.positions(self.words(tokens))
        for block in self.blocks:
            x = block(x, tokens)
        logits: Tensor = self.head(self.mean(self.norm(x), tokens))
        return logits


def encoder(
    *,
    vocabulary: int,
    num_classes: int,
    length: int = 32,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
) -> nn.Module:
    """A transformer encoder that classifies texts of `length` tokens below `vocabulary`.

    Raises:
        InputError: the heads do not divide the width.
    """
    if width % heads:
        raise InputError(
            f"encoder: heads must divide the width, {width}; got {heads}. Use {math.gcd(width, 4)}."
        )
    return Encoder(
        vocabulary=vocabulary,
        length=length,
        width=width,
        depth=depth,
        heads=heads,
        num_classes=num_classes,
    )
