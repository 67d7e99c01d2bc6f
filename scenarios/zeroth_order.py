"""Zeroth-order optimisation of black-box functions, by FZooS and by finite differences.

World      quadratics  5 heterogeneous clients, d = 300
           attack      one perturbation for the Fashion-MNIST images of 10 clients, d = 784
           metric      a network for Adult, tuned for F1 by 7 clients, d = 2,222
Model      one vector of [0, 1]^d; the test loss is the clients' mean value
Source     Shu et al. (2023), arXiv:2308.04077, section 6 (Adam with lr 0.01; 20 directions)
"""

from __future__ import annotations

from typing import Any, Literal

from fedsim.core.scenario import AnyStrategy, Scenario
from fedsim.models.black_box import Problem, metric, quadratics, universal_perturbation
from privacy import none
from scenarios.shared import knobs
from strategies import batch_plans, client_selection, fedavg, fedprox, fzoos, scaffold, zeroth_order
from strategies.aggregators import mean
from strategies.shared.surrogate import Surrogate
from strategies.step_rules import adam, boxed

ProblemName = Literal["quadratics", "attack", "metric"]
StrategyName = Literal["fzoos", "fedzo", "fedprox_zo", "scaffold_zo"]


def scenario(
    *,
    problem: ProblemName = "quadratics",
    strategy: StrategyName = "fzoos",
    dims: int = 300,
    unlikeness: float = 5.0,
    rounds: knobs.Rounds = 50,
    local_steps: int = 10,
    lr: float = 0.01,
    looks: int = 2,
    active: int = 5,
    correction: float = 1.0,
    fade: bool = True,
    memory: int = 150,
    features: int = 10_000,
    directions: int = 20,
    smoothing: float = 0.01,
    mu: float = 0.01,
    data_seed: int = 0,
) -> Scenario:
    """A black-box function that is a mean over clients; all take part in every round.

    Args:
        problem: the function.
        strategy: the algorithm; all but fzoos take finite differences for gradients.
        dims: coordinates of the quadratics.
        unlikeness: of the clients' quadratics, C; 0.5, 5 and 50 in the paper.
        local_steps: moves of a client in a round; 10 in the paper, 5 for the attack.
        lr: Adam's learning rate.
        looks: steps of fzoos before the first move that only ask.
        active: places that fzoos asks beside each point.
        correction: of fzoos; 0 leaves every client to itself.
        fade: whether the correction of fzoos shrinks from step to step.
        memory: points that a client of fzoos keeps.
        features: random features of fzoos, which are sent.
        directions: of a finite difference.
        smoothing: how far a finite difference reaches.
        mu: proximal term of fedprox_zo.
        data_seed: which functions, images or examples.
    """
    chosen = problem_named(problem, dims=dims, unlikeness=unlikeness, seed=data_seed)
    rule = boxed(adam(lr), 0, 1)
    bases: dict[str, AnyStrategy] = {
        "fedzo": fedavg(steps=rule),
        "fedprox_zo": fedprox(steps=rule, mu=mu),
        "scaffold_zo": scaffold(steps=rule),
    }
    ours: dict[str, Any] = {
        "looks": looks,
        "active": active,
        "correction": correction,
        "fade": fade,
    }
    surrogate = Surrogate(memory=memory, features=features)
    turns, algorithm = local_steps, bases.get(strategy)
    if algorithm is None:
        turns += looks
        algorithm = fzoos(steps=adam(lr), surrogate=surrogate, **ours)
    else:
        algorithm = zeroth_order(algorithm, directions=directions, smoothing=smoothing)
    return Scenario(
        data=chosen.data,
        split=chosen.split,
        task=chosen.task,
        strategy=algorithm,
        plan=batch_plans.shuffled_epochs(epochs=turns, batch_size=chosen.examples),
        selection=client_selection.uniform(),
        aggregator=mean("uniform"),
        mechanism=none(),
        population=chosen.population,
        cohort=chosen.population,
        rounds=rounds,
    )


def problem_named(name: ProblemName, *, dims: int, unlikeness: float, seed: int) -> Problem:
    """The problem of that name, with the paper's sizes."""
    if name == "quadratics":
        return quadratics(dims=dims, unlikeness=unlikeness, seed=seed)
    return universal_perturbation(seed=seed) if name == "attack" else metric(seed=seed)


if __name__ == "__main__":
    from fedsim.cli import run_script

    run_script(__file__)
