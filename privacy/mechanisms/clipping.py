"""Clipping rules: bounds on the norm of a contribution.

A rule is given the squared norm of each layer's part of a contribution and says what each part is
multiplied by; so the same rule serves one example's gradient and one client's update. A
contribution that is not finite is for the caller to drop, before it is summed.

Shapes: [...] is [k] for updates of k clients, [k, b] for gradients of b examples each.

Source: Abadi et al. (2016), arXiv:1607.00133 (flat); McMahan et al. (2018), arXiv:1710.06963
    (per layer); Bu et al. (2023), "Automatic clipping", arXiv:2206.07136 (AUTO-S).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.core.errors import PrivacyError
from fedsim.core.trees import Tree
from fedsim.training.per_example import Factors, total_of
from privacy import validate


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clipping rule. bound: the largest L2 norm over all layers of what it lets through."""

    name: str
    bound: float
    factors: Factors


def flat(clip_norm: float) -> Clip:
    """U min(1, C / ||u||) over all layers together.

    Raises:
        PrivacyError: clip_norm is not above 0.

    Guarantees:
        Nothing comes out longer than the bound.
        What is short enough stays as it was, bit for bit.
    """
    validate.length("flat", clip_norm=clip_norm)

    def factors(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        factor = shortened(total_of(squares).sqrt(), clip_norm)
        return dict.fromkeys(squares, factor)

    return Clip(name=f"flat({clip_norm:g})", bound=clip_norm, factors=factors)


def per_layer(clip_norm: float) -> Clip:
    """Each of L layers by itself, to C / sqrt(L), so that all together are within C.

    Raises:
        PrivacyError: clip_norm is not above 0.

    Guarantees:
        Nothing comes out longer than the bound.
        With one layer it is flat clipping.
    """
    validate.length("per_layer", clip_norm=clip_norm)

    def factors(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        each = clip_norm / len(squares) ** 0.5
        return {path: shortened(square.sqrt(), each) for path, square in squares.items()}

    return Clip(name=f"per_layer({clip_norm:g})", bound=clip_norm, factors=factors)


def automatic(clip_norm: float = 1.0, stability: float = 0.01) -> Clip:
    """AUTO-S: R u / (||u|| + gamma): every contribution nearly as long as the others.

    Args:
        clip_norm: R, which only scales the learning rate.
        stability: gamma, which keeps short contributions short.

    Raises:
        PrivacyError: one of them is not above 0.

    Guarantees:
        Nothing comes out longer than the bound.
        A longer contribution comes out longer; zero stays zero.
    """
    validate.length("automatic", clip_norm=clip_norm, stability=stability)

    def factors(squares: dict[str, Tensor]) -> dict[str, Tensor]:
        factor = clip_norm / (total_of(squares).sqrt() + stability)
        return dict.fromkeys(squares, factor)

    return Clip(name=f"automatic({clip_norm:g})", bound=clip_norm, factors=factors)


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """Flat clipping at a norm C_t that follows a quantile of the contributions' norms.

    Each step asks, privately, how many were short enough: that query is part of the mechanism's
    noise, so the update gets a little more of it (`split_noise`) and the budget is as without.

    start, least, most: of the clip norm. target: the share of contributions left as they were.
    rate: eta of the geometric update. count_noise: standard deviation of the noise on the count.

    Source: Andrew et al. (2021), "Differentially private learning with adaptive clipping",
        arXiv:1905.03871, algorithm 1.
    """

    PREFIX: ClassVar[str] = "quantile"

    start: float
    count_noise: float
    target: float
    rate: float
    least: float = 1e-4
    most: float = 1e4

    @property
    def name(self) -> str:
        """How a summary calls it."""
        return f"{self.PREFIX}({self.target:g} from {self.start:g})"


def quantile(
    start: float, *, count_noise: float, target: float = 0.5, rate: float = 0.2
) -> Quantile:
    """A clip norm that follows the quantile `target` of the norms it sees.

    Args:
        start: C_0.
        count_noise: standard deviation of the noise on the count of those that are short enough;
            a twentieth of the expected number of contributions is usual.
        target: the share that is to be left as it was.
        rate: of the geometric update.

    Raises:
        PrivacyError: a number is out of its range.
    """
    validate.length("quantile", start=start, count_noise=count_noise, rate=rate)
    if not 0 < target < 1:
        raise PrivacyError(f"quantile: target must be in (0, 1); got {target}. Use 0.5.")
    return Quantile(start=start, count_noise=count_noise, target=target, rate=rate)


def split_noise(noise_multiplier: float, count_noise: float) -> float:
    """z_u, so that the noised sum and the noised count together have the multiplier z.

    z_u = (z^-2 - (2 sigma_b)^-2)^(-1/2): votes of +-1/2 move the count by 1/2.

    Raises:
        PrivacyError: the count's noise alone is too small for that multiplier.
    """
    if not noise_multiplier < 2 * count_noise:
        raise PrivacyError(
            f"quantile: count_noise must be above {noise_multiplier / 2:g}, half of the noise "
            f"multiplier; got {count_noise:g}. Use a twentieth of the expected contributions."
        )
    return float((noise_multiplier**-2 - (2 * count_noise) ** -2) ** -0.5)


def split(rule: Clip | Quantile, noise_multiplier: float) -> dict[str, float]:
    """Where the noise of a moving clip norm goes, as a ledger's line has it; of a fixed one {}.

    count_noise: sigma_b. update_noise: z_u.

    Raises:
        PrivacyError: the count's noise alone is too small for that multiplier.
    """
    if isinstance(rule, Clip):
        return {}
    update_noise = split_noise(noise_multiplier, rule.count_noise)
    return {"count_noise": rule.count_noise, "update_noise": update_noise}


def uncharged(details: Mapping[str, Any], multiplier: float, name: str) -> str:
    """What a ledger's entry leaves out of a clip norm that moves; empty where it pays for all.

    The sum, noised with z_u C, and the count, whose votes are +-1/2, are one Gaussian mechanism of
    multiplier z = (1 / z_u^2 + 1 / (2 sigma_b)^2)^(-1/2).

    Args:
        details: of the entry, with what `split` has made.
        multiplier: z that is charged, over the clip norm.
        name: of the mechanism as printed, with that of its clipping rule: there are ledgers without
            these details.
    """
    if "update_noise" not in details:
        moving = f"{Quantile.PREFIX}(" in name
        return "adaptive clip is not charged: the ledger does not know its noise" if moving else ""
    spent = details["update_noise"] ** -2 + (2 * details["count_noise"]) ** -2
    if spent <= (1 + 1e-9) * multiplier**-2:
        return ""
    return (
        f"adaptive clip is not charged: the noise of sum and count comes to {spent**-0.5:.4g}, "
        f"and {multiplier:.4g} is charged"
    )


def followed(rule: Quantile, norm: Tensor, noisy_votes: Tensor, expected: Tensor) -> Tensor:
    """C_{t+1} from C_t and the noised sum of votes, over the public expected number; [...]."""
    share = 0.5 + noisy_votes / expected
    return (norm * torch.exp(-rule.rate * (share - rule.target))).clamp(rule.least, rule.most)


def shortened(norms: Tensor, most: float | Tensor) -> Tensor:
    """min(1, most / norm), with 1 for a norm of 0; [...]."""
    return (most / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1)


def layer_squares(stack: Tree) -> dict[str, Tensor]:
    """The squared norm of each layer's part of k updates, by layer; [k], in double precision.

    A float32 square overflows at 1e19, and would make of a long update one of length 0.
    """
    squares: dict[str, Tensor] = {}
    for name, tensor in stack.items():
        rows = tensor.unsqueeze(-1).flatten(1)
        square = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
        layer = name.rpartition(".")[0]
        squares[layer] = squares[layer] + square if layer in squares else square
    return squares


def scaled(stack: Tree, factors: dict[str, Tensor]) -> Tree:
    """K updates, each layer's part times its factor [k].

    A factor too small to be an ordinary float is 0: rounded, it could let too much through.
    """
    found = {}
    for name, tensor in stack.items():
        exact, least = factors[name.rpartition(".")[0]], torch.finfo(tensor.dtype).tiny
        factor = exact.masked_fill(exact < least, 0).to(tensor.dtype)
        found[name] = tensor * factor.reshape(-1, *(1,) * (tensor.dim() - 1))
    return found
