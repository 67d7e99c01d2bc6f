"""Randomness keyed by (seed, purpose, round, client): no draw depends on what was drawn before it.

Two kinds of stream:
* `numpy_stream` and `torch_stream` are ordinary generators, for the server's few draws;
* `client_keys` and `bits` are counter-based: the draws of a whole cohort are one tensor operation,
  and client 7's draws are the same alone, in a chunk of 100, or on another machine.

Source of the mixing function: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number
generators", the 64-bit finaliser known as splitmix64.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a stream is for. Streams of different purposes are independent."""

    DATA = 1
    SPLIT = 2
    INIT = 3
    COHORT = 4
    BATCHES = 5
    STEP = 6
    NOISE = 7
    ATTACK = 8
    CANARY = 9


def _signed(value: int) -> int:
    """A 64-bit constant as torch's int64 writes it."""
    return value - (1 << 64) if value >= 1 << 63 else value


_WORD = (1 << 64) - 1
_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(bits_in: Tensor, by: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (bits_in >> by).bitwise_and_((1 << (64 - by)) - 1)


def mix(value: Tensor) -> Tensor:
    """A bijection of int64 in which every input bit moves about half of the output bits."""
    value = value + _GOLDEN  # a tensor of its own: the rest is in place
    value.bitwise_xor_(_shift(value, 30)).mul_(_MIX_1)
    value.bitwise_xor_(_shift(value, 27)).mul_(_MIX_2)
    return value.bitwise_xor_(_shift(value, 31))


def _mixed(word: int) -> int:
    """`mix` of one unsigned word, without the cost of a tensor."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


def client_keys(seed: int, purpose: Purpose, round_num: int, clients: Tensor) -> Tensor:
    """One key a client, int64 [k], from clients [k]."""
    key = seed & _WORD
    for part in (int(purpose), round_num):
        key = _mixed(_mixed(key) ^ part)  # mixed before, too: small numbers must not cancel out
    return mix(clients.to(torch.int64) ^ _signed(_mixed(key)))


def bits(keys: Tensor, count: int) -> Tensor:
    """`count` words of 64 random bits for each key: int64 [..., count] from keys [...]."""
    counters = torch.arange(count, device=keys.device, dtype=torch.int64)
    return mix(mix(keys).unsqueeze(-1) + counters * _GOLDEN)


def normals(keys: Tensor, count: int) -> Tensor:
    """`count` independent standard normal numbers for each key: float32 [..., count].

    Source: Box and Muller (1958), on the two halves of each word.
    """
    words = bits(keys, (count + 1) // 2)
    high = _shift(words, 32).to(torch.float32).add_(0.5).mul_(2.0**-32)  # in (0, 1]
    low = (words & 0xFFFFFFFF).to(torch.float32).mul_(2.0**-32 * 2 * math.pi)
    radius = high.log_().mul_(-2).sqrt_()
    both = torch.cat([low.cos().mul_(radius), low.sin_().mul_(radius)], dim=-1)
    return both[..., :count]


def uniforms(keys: Tensor, count: int) -> Tensor:
    """`count` independent numbers from [0, 1) for each key: float32 [..., count]."""
    words = bits(keys, (count + 1) // 2)
    both = torch.cat([_shift(words, 40), words & 0xFFFFFF], dim=-1)  # 24 bits each: exact
    return both[..., :count].to(torch.float32).mul_(2.0**-24)


def permutations(keys: Tensor, counts: Tensor, width: int) -> Tensor:
    """A random order of range(counts[i]) for each key: int64 [k, width], -1 after the counts[i]-th.

    Args:
        keys: [k], int64.
        counts: [k], each at most `width`.
        width: length of the rows.
    """
    words = bits(keys, width)
    beyond = torch.arange(width, device=keys.device) >= counts.unsqueeze(-1)
    order = torch.argsort(words.masked_fill(beyond, torch.iinfo(torch.int64).max), -1)
    return order.masked_fill(beyond, -1)


def _sequence(seed: int, purpose: Purpose, round_num: int, client: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), round_num, client))


def numpy_stream(
    seed: int, purpose: Purpose, round_num: int = 0, client: int = 0
) -> np.random.Generator:
    """A NumPy generator of its own for this key."""
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, round_num, client)))


def derived_seed(seed: int, purpose: Purpose, round_num: int = 0, client: int = 0) -> int:
    """A 63-bit seed of its own for this key, for libraries that want a number."""
    word = _sequence(seed, purpose, round_num, client).generate_state(1, np.uint64)[0]
    return int(word >> np.uint64(1))


def torch_stream(
    seed: int, purpose: Purpose, round_num: int = 0, client: int = 0, device: str = "cpu"
) -> torch.Generator:
    """A torch generator of its own for this key."""
    generator = torch.Generator(device=device)
    return generator.manual_seed(derived_seed(seed, purpose, round_num, client))
