"""Synthetic quadratics: their mean does not depend on how heterogeneous they are.

Source: Shu, Lin, Dai, Low (2023), arXiv:2308.04077, section 6.1 and appendix.

Box, for client i of N, with z = 20 x - 10 and (a_1j .. a_Nj), (b_1j .. b_Nj) ~ Dirichlet(1/N):
    f_i = (1 / 10 d) (sum_j ((1 + C (a_ij - 1/N)) z_j^2 + (1 + C (b_ij - 1/N)) z_j) + 1)
    F   = (1 / 10 d) (sum_j (z_j^2 + z_j) + 1),    least where z_j = -1/2
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import at_least, non_negative
from fedsim.core.rng import Purpose, numpy_stream, torch_stream
from fedsim.core.trees import Tree
from fedsim.models.black_box.problem import Problem, black_box
from fedsim.world import partition


def quadratics(
    *, dims: int = 300, population: int = 5, unlikeness: float = 5.0, seed: int = 0
) -> Problem:
    """The paper's synthetic family. A client's one example is (curvatures, slopes) [2, d].

    Args:
        dims: d.
        population: N.
        unlikeness: C; 0.5, 5 and 50 in the paper. Clients are not convex where it is above 1.25.
        seed: of the clients' functions.

    Raises:
        InputError: dims or population is below 1, or unlikeness is negative.

    Guarantees:
        The clients' mean is F, whatever the unlikeness.
    """
    at_least("quadratics", 1, "Use 300 and 5 as in the paper.", dims=dims, population=population)
    non_negative("quadratics", "Use 0.5, 5 or 50.", unlikeness=unlikeness)
    name = f"quadratics(d={dims}, C={unlikeness:g})"

    def load(data_dir: Path | None) -> Dataset:
        draw = numpy_stream(seed, Purpose.DATA)
        shares = draw.dirichlet(np.full(population, 1 / population), size=(2, dims))  # [2, d, N]
        own = 1 + unlikeness * (shares.transpose(2, 0, 1) - 1 / population)
        functions = torch.from_numpy(own.astype(np.float32))
        examples = Examples(functions, torch.zeros(population, dtype=torch.int64))
        return Dataset(name=name, train=examples, test=examples, num_classes=1)

    def query(params: Tree, x: Tensor) -> Tensor:
        z = 20 * params["x"] - 10
        curves, slopes = x.unbind(dim=1)
        return ((curves * z * z + slopes * z).sum(dim=1) + 1) / (10 * dims)

    def start(seed: int) -> Tree:
        return {"x": torch.rand(dims, generator=torch_stream(seed, Purpose.INIT))}

    return Problem(
        data=Source(name=name, load=load),
        split=partition.given(np.arange(population)),
        task=black_box(name, query=query, start=start),
        population=population,
        examples=1,
        floor=(1 - dims / 4) / (10 * dims),
    )
