"""Noise for a budget: the smallest multiplier that keeps a plan within an epsilon."""

from __future__ import annotations

from privacy.accounting import Gaussian, PoissonGaussian, calibrate


def poisson_noise(epsilon: float, delta: float, *, sampling_prob: float, steps: int) -> float:
    """For so many steps, in each of which a unit is drawn with that probability.

    Raises:
        PrivacyError: no noise that makes sense reaches that epsilon.
    """
    return calibrate(
        lambda z: [PoissonGaussian(sampling_prob=sampling_prob, noise_multiplier=z, count=steps)],
        epsilon,
        delta,
    )


def gaussian_noise(epsilon: float, delta: float, *, sensitivity: float) -> float:
    """For one Gaussian mechanism on everything a unit does; sensitivity in clip norms."""
    return calibrate(lambda z: [Gaussian(mu=sensitivity / z)], epsilon, delta)
