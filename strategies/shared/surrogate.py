"""A client's surrogate of its black-box function: a Gaussian process and a summary of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsim.core.errors import at_least, positive
from strategies.shared import gaussian_process


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """How clients model their functions; see `strategies.fzoos`.

    memory: n, the most points that a client keeps.
    features: M; a client sends d + M numbers.
    length_scale: l; at least the distance that a client usually moves in a round.
    noise: variance of the values' noise, as a share of the variance of the values.
    seed: of the random features, which all clients share.

    Raises:
        InputError: a value is out of its range.
    """

    memory: int = 150
    features: int = 10_000
    length_scale: float = 1.0
    noise: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("surrogate", 1, "Use 150.", memory=self.memory)
        at_least("surrogate", 1, "Use 10000.", features=self.features)
        positive("surrogate", "Use 1.", length_scale=self.length_scale)
        positive("surrogate", "Use 1e-6.", noise=self.noise)

    def fit(self, points: Tensor, values: Tensor, origin: Tensor) -> gaussian_process.Fit:
        """Condition the process on a client's points [n, d] and values [n]."""
        return gaussian_process.fit(
            points, values, origin=origin, length_scale=self.length_scale, noise=self.noise
        )

    def basis(self, x: Tensor) -> gaussian_process.Features:
        """The random features that all clients share, on the device of x [d]."""
        return gaussian_process.draw_features(
            len(x), self.features, self.length_scale, self.seed, x.device
        )

    def summarise(self, points: Tensor, values: Tensor, x: Tensor) -> Tensor:
        """Fit the weights of the features, [M], to a client's points, on the device of x."""
        return gaussian_process.summarise(self.basis(x), points, values, noise=self.noise)
