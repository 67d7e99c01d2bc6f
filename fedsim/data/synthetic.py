"""The synthetic(alpha, beta) family: each client has its own labelling rule and input distribution.

Source: Li et al. (2020), "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127,
section 5.1 and appendix C.1.

Box, for client k:
    u_k ~ N(0, alpha), B_k ~ N(0, beta)                     alpha, beta: standard deviations here
    W_k, b_k ~ N(u_k, 1)        v_k ~ N(B_k, 1)             W_k: 10 x 60
    x ~ N(v_k, Sigma), Sigma_jj = j^-1.2        y = argmax(W_k x + b_k)
    n_k = 50 + floor(lognormal(4, 2)); a tenth of them are the client's own test examples

Deviations: n_k is at most `largest`, because its distribution has a very long tail.

Note: u_k is one number for all entries of W_k and b_k, so it adds the same to every logit and the
argmax does not depend on it: with these published formulas alpha changes no label. The clients'
rules differ because each has its own W_k; of the two knobs only beta matters, through the inputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import at_least, non_negative
from fedsim.core.rng import Purpose, numpy_stream

_INPUTS, _CLASSES = 60, 10


def synthetic(
    *, alpha: float, beta: float, population: int, seed: int = 0, largest: int = 2000
) -> Source:
    """Synthetic(alpha, beta): one labelling rule a client, and inputs that beta moves apart.

    Raises:
        InputError: alpha or beta is negative, or there is no client.
    """
    non_negative("synthetic", "Use 0, 0.5 or 1 as in the paper.", alpha=alpha, beta=beta)
    at_least("synthetic", 1, "Give a population of one or more.", population=population)
    name = f"synthetic({alpha:g}, {beta:g})"

    def load(data_dir: Path | None) -> Dataset:
        streams = [numpy_stream(seed, Purpose.DATA, client=k) for k in range(population)]
        clients = [_draw_client(stream, alpha, beta, largest) for stream in streams]
        parts = {}
        for part in ("train", "test"):
            cuts = [len(y) // 10 for _, y in clients]
            spans = [slice(0, c) if part == "test" else slice(c, None) for c in cuts]
            x = np.concatenate([x[s] for (x, _), s in zip(clients, spans, strict=True)])
            y = np.concatenate([y[s] for (_, y), s in zip(clients, spans, strict=True)])
            owners = [
                np.full(len(y[s]), f"{k:06d}")
                for k, ((_, y), s) in enumerate(zip(clients, spans, strict=True))
            ]
            examples = Examples(torch.from_numpy(x), torch.from_numpy(y))
            parts[part] = (examples, np.concatenate(owners))
        return Dataset(
            name=name,
            train=parts["train"][0],
            test=parts["test"][0],
            num_classes=_CLASSES,
            train_owners=parts["train"][1],
            test_owners=parts["test"][1],
        )

    return Source(name=name, load=load)


def _draw_client(
    stream: np.random.Generator, alpha: float, beta: float, largest: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The examples of one client, by the box."""
    u, b = stream.normal(0, alpha), stream.normal(0, beta)
    weight, bias = stream.normal(u, 1, (_CLASSES, _INPUTS)), stream.normal(u, 1, _CLASSES)
    mean = stream.normal(b, 1, _INPUTS)
    count = min(50 + int(stream.lognormal(4, 2)), largest)
    spread = np.arange(1, _INPUTS + 1) ** -0.6  # the square root of Sigma's diagonal
    x = mean + stream.normal(size=(count, _INPUTS)) * spread
    return x.astype(np.float32), np.argmax(x @ weight.T + bias, axis=1)
