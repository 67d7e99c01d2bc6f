"""FedSpeed: FedDyn's prox-correction, with gradients at a perturbed point a step uphill.

Paper
    Sun, Shen, Huang, Ding, Tao. "FedSpeed: Larger Local Interval, Less Communication Round, and
    Higher Generalization Accuracy". ICLR 2023. arXiv:2302.10429, Algorithm 1.

Notation
    x^t server.params    ghat_i client.dual    1 / lam = a in FedDyn's box    rho radius
    alpha mix    xi the step's batch    m clients in all    S_t cohort

Algorithm
    1  all ghat_i = 0, hbar = 0;  for t = 1..T:
    2      send x^t to the cohort S_t
    3      each i in S_t:  x <- x^t;  for each batch xi:
    4          g1 = grad F_i(x; xi)
    5          g2 = grad F_i(x + rho g1 / ||g1||; xi)
    6          g = (1 - alpha) g1 + alpha g2
    7          x <- x - lr (g - ghat_i + (x - x^t) / lam)
    8      ghat_i <- ghat_i - (x - x^t) / lam;  send diff_i = x - x^t
    9      hbar <- hbar + (1 / m) sum_{i in S_t} diff_i
   10      x^{t+1} = mean_{i in S_t} x_i + hbar

Deviations
    Lines 9 and 10 are those of the authors' code: hbar = mean_i of -lam ghat_i, over all m clients.
    The paper's server takes the mean of x_i - lam ghat_i over the cohort alone, which under partial
    cohorts is off by lam ||mean_{S_t} grad F_i|| even at the optimum; `server="paper"` has it, and
    refuses partial cohorts.  A zero gradient is not stepped along.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from fedsim.core import trees
from fedsim.core.batch import Batch, Oracle
from fedsim.core.errors import InputError, non_negative, positive
from fedsim.core.scenario import AnyStrategy, Scenario
from fedsim.core.step_rule import StepRule
from fedsim.core.trees import Tree
from fedsim.core.updates import Released
from strategies.fedavg import Local, Model
from strategies.feddyn import Dual, Server, feddyn, regularised
from strategies.fedsam import uphill


def fedspeed(
    *,
    steps: StepRule[Any],
    lam: float = 10.0,
    rho: float = 0.1,
    mix: float = 1.0,
    server: Literal["all clients", "paper"] = "all clients",
) -> AnyStrategy:
    """Prox-correction duals and the extra-gradient step; two gradients a local step.

    Args:
        steps: how a client moves on its corrected objective (line 7); its lr must be below lam.
        lam: length of the proximal step, > 0.
        rho: how far uphill the second gradient is taken, >= 0.
        mix: alpha, the second gradient's part, in [0, 1].
        server: lines 9 and 10 over the duals of all clients, or the paper's over the cohort's.

    Raises:
        InputError: a value is out of its range.

    Guarantees:
        With rho = 0 it equals FedDyn with strength 1 / lam.
        Under full participation both servers agree.
        The new dual is an exponential average of the corrected gradients and the old one.
    """
    positive("fedspeed", "Use 10.", lam=lam)
    non_negative("fedspeed", "Use 0.1.", rho=rho)
    if not 0 <= mix <= 1:
        raise InputError(f"fedspeed: mix must be in [0, 1]; got {mix}. Use 1.")
    base = feddyn(steps=steps, strength=1 / lam)

    def local_step(local: Local, batch: Batch, oracle: Oracle, model: Model, client: Dual) -> Local:
        def gradient(x: Tree) -> Tree:
            g1 = oracle.gradient(x, batch)  # line 4
            g2 = oracle.gradient(uphill(x, g1, rho), batch)  # line 5
            g = trees.add_scaled(g1, trees.subtract(g2, g1), mix)  # line 6
            return regularised(g, x, model, client, 1 / lam)

        return Local(*steps.step(local.rule, local.params, gradient))  # line 7

    strategy = replace(base, name="fedspeed", local_step=local_step)
    return strategy if server == "all clients" else _over_the_cohort(strategy, lam)


def _over_the_cohort(base: AnyStrategy, lam: float) -> AnyStrategy:
    """The paper's own server: clients send x_i - lam ghat_i, and their mean is the model."""

    def local_end(local: Local, model: Model, client: Dual) -> tuple[Tree, Dual]:
        diff, after = base.local_end(local, model, client)
        return trees.add_scaled(diff, after.dual, -lam), after

    def update(held: Server, released: Released) -> Server:
        return held._replace(params=trees.add(held.params, released.diff))

    def objection(scenario: Scenario) -> str | None:
        if scenario.cohort == scenario.population:
            return base.objection(scenario)
        return (
            "fedspeed: cohort must be the whole population for the paper's server; got "
            f"{scenario.cohort} of {scenario.population}. Use server='all clients'."
        )

    return replace(
        base, name="fedspeed(paper)", local_end=local_end, update=update, objection=objection
    )
