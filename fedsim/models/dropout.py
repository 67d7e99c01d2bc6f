"""Keyed dropout: its mask depends only on the step's key, so all runtimes and widths agree.

`torch.nn.Dropout` draws from a global generator: a cohort trained as a stack would get other masks
than the same clients one by one. `KeyedDropout` hashes (key, element) instead. `keyed` replaces the
one by the other in any module.

Source of the hash: the 32-bit finaliser "lowbias32" of Wellons (2018), "Prospecting for hash
functions".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.core.rng import mix

_MULTIPLY_1 = 0x7FEB352D
_MULTIPLY_2 = 0x846CA68B - (1 << 32)  # as int32 writes it
_SALT = 0x632BE59B


def _shift32(word: Tensor, by: int) -> Tensor:
    """Logical right shift of int32."""
    return (word >> by) & ((1 << (32 - by)) - 1)


def _scramble(word: Tensor) -> Tensor:
    """A bijection of int32 that spreads every input bit."""
    word = (word ^ _shift32(word, 16)) * _MULTIPLY_1
    word = (word ^ _shift32(word, 15)) * _MULTIPLY_2
    return word ^ _shift32(word, 16)


def keep_mask(key: Tensor, salt: int, p: float, count: int) -> Tensor:
    """Draw which of `count` elements to keep, each with probability 1 - p: bool [..., count].

    The probability is a multiple of 2^-16, the one nearest to what is asked for.

    Args:
        key: int64 [...]; each key has a row of its own.
        salt: tells the layers of a model apart.
        p: the probability of being dropped.
        count: the number of elements per key.

    Guarantees:
        Whether an element is kept does not depend on how many there are.
    """
    key = mix(key + salt * _SALT).unsqueeze(-1)
    low, high = key.to(torch.int32), (key >> 32).to(torch.int32)
    counter = torch.arange((count + 1) // 2, dtype=torch.int32, device=key.device)
    word = _scramble(_scramble(counter ^ low) + high)
    halves = word.view(torch.int16)[..., :count]  # two decisions a word, side by side
    return halves >= min(round(p * (1 << 16)), (1 << 16) - 1) - (1 << 15)


class KeyedDropout(nn.Module):
    """Zeroes each element with probability `p` and scales the rest by 1 / (1 - p), from a key.

    The key is the buffer `key` (int64, []), set by the task at every step; `salt` tells the
    dropout layers of one model apart. In evaluation mode it is the identity.
    """

    key: Tensor

    def __init__(self, p: float, salt: int) -> None:
        super().__init__()
        self.p = p
        self.salt = salt
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, any shape."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0  # and not new zeros, so that the output stays in the graph
        keep = keep_mask(self.key, self.salt, self.p, x.numel())
        return x * (keep.reshape(x.shape).to(x.dtype) / (1 - self.p))


def keyed(model: nn.Module) -> nn.Module:
    """`model`, with each plain dropout layer replaced by a keyed one (in place).

    Raises:
        ValueError: a layer drops whole channels, which has no keyed form.
    """
    plain = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    everywhere = model.named_modules(remove_duplicate=False)  # a layer may be used twice
    spots = [(name, layer) for name, layer in everywhere if isinstance(layer, plain)]
    for salt, (name, layer) in enumerate(spots, start=1):
        if not isinstance(layer, nn.Dropout):
            raise ValueError(
                f"keyed: {name} must be nn.Dropout; got {type(layer).__name__}. "
                "Use nn.Dropout: whole-channel dropout has no keyed form yet."
            )
        model.set_submodule(name, KeyedDropout(layer.p, salt))
    return model
