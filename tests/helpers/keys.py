"""Keys of clients, and how far statistics of random numbers may be from their means."""

import torch

from fedsim.core.rng import (
    Purpose,
    client_keys,
)

SIGMAS = 5  # two-sided, a chance of 6e-7 for each number tested; seeds are fixed besides


def keys_of(count, *, seed=0, purpose=Purpose.BATCHES, round_num=1):
    """The keys of clients 0 to count - 1."""
    return client_keys(seed, purpose, round_num, torch.arange(count))
