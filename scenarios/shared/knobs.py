"""Knobs that several scenarios share, and the choices of an algorithm by name.

A knob is a type and its help text: `rounds: knobs.Rounds = 60` in a scenario's signature is the
option `--rounds` with that default. What a text does not fit is said in the scenario's own `Args`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fedsim.core.attack import Attack
from fedsim.core.errors import InputError
from fedsim.core.sampling import Selection
from fedsim.core.scenario import Aggregator, AnyStrategy, BatchPlan
from fedsim.core.step_rule import StepRule
from fedsim.world.attacks import inner_product, label_flip, little_is_enough, sign_flip
from strategies import (
    fedadam,
    fedavg,
    fedavgm,
    fedcm,
    feddyn,
    fedld,
    fednova,
    fedprox,
    fedsam,
    fedspeed,
    fedyogi,
    mofedsam,
    monna,
    moon,
    scaffold,
)
from strategies.aggregators import (
    coordinate_median,
    krum,
    mean,
    multi_krum,
    nearest_neighbours,
    principal_directions,
    trimmed_mean,
)
from strategies.batch_plans import data_curriculum, shuffled_epochs
from strategies.client_selection import client_curriculum, poisson, uniform
from strategies.step_rules import delta_sgd, sgd

Alpha = Annotated[float, "Dirichlet concentration of the label split; small is less alike"]
Population = Annotated[int, "number of clients"]
Cohort = Annotated[int, "clients a round"]
Rounds = Annotated[int, "server steps"]
LocalEpochs = Annotated[int, "passes of a client over its data in a round"]
LocalSteps = Annotated[int, "steps of a client in a round"]
BatchSize = Annotated[int, "examples a local step"]
LearningRate = Annotated[float, "the clients' learning rate"]
ServerLearningRate = Annotated[
    float | None, "the server's learning rate; left out, the strategy's own"
]
Mu = Annotated[float, "proximal term of fedprox"]
EvaluateEvery = Annotated[int, "rounds from one evaluation to the next"]

SamplingProb = Annotated[float, "of an example in a step"]
Epsilon = Annotated[
    float, "the budget; the noise is made for it, and no round is begun that would exceed it"
]
Delta = Annotated[float, "at which epsilon is given"]

Seeds = Annotated[int, "how many, from --seed on"]
Canaries = Annotated[int, "made-up clients or examples of each run"]

StrategyName = Annotated[
    Literal[
        "fedavg",
        "fedprox",
        "fedavgm",
        "fedadam",
        "fedyogi",
        "feddyn",
        "fedspeed",
        "scaffold",
        "fedcm",
        "fednova",
        "fedsam",
        "mofedsam",
        "moon",
        "monna",
        "fedld",
    ],
    "the algorithm",
]
StepName = Annotated[
    Literal["sgd", "delta_sgd"], "how clients step; delta_sgd finds its own learning rate"
]
OrderName = Annotated[
    Literal["shuffled", "curriculum", "anti", "random"],
    "in which order clients see their examples; the last three are paced curricula",
]
SelectionName = Annotated[
    Literal["uniform", "poisson", "curriculum"],
    "who takes part; curriculum has the easiest clients first",
]
Weights = Annotated[Literal["examples", "uniform"], "how clients count in the mean"]
AggregatorName = Annotated[
    Literal[
        "mean",
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "nearest_neighbours",
        "principal_directions",
    ],
    "how the server combines updates",
]
AttackName = Annotated[
    Literal["none", "label_flip", "sign_flip", "little_is_enough", "inner_product"],
    "what the attackers do",
]


def strategy_named(
    name: StrategyName, *, steps: StepRule[Any], mu: float, server_lr: float | None
) -> AnyStrategy:
    """The strategy of that name around these local steps; mu is FedProx's.

    server_lr None is the strategy's own: 1 for FedAvg and FedProx, 0.3 for FedAvgM (momentum 0.9),
    0.01 for the adaptive ones. The others have no such knob here, and their papers' defaults.

    Raises:
        InputError: server_lr is given to a strategy that has none.
    """
    papers: dict[str, Callable[..., AnyStrategy]] = {
        "feddyn": feddyn,
        "fedspeed": fedspeed,
        "scaffold": scaffold,
        "fedcm": fedcm,
        "fednova": fednova,
        "fedsam": fedsam,
        "mofedsam": mofedsam,
        "moon": moon,
        "monna": monna,
        "fedld": fedld,
    }
    if name in papers:
        if server_lr is not None:
            raise InputError(
                f"strategy: server_lr must be left out for {name}; got {server_lr}. "
                "Build the strategy in a script of your own to change its parameters."
            )
        return papers[name](steps=steps)
    if name == "fedprox":
        return fedprox(steps=steps, mu=mu, server_lr=1.0 if server_lr is None else server_lr)
    if name == "fedavg":
        return fedavg(steps=steps, server_lr=1.0 if server_lr is None else server_lr)
    base = fedavg(steps=steps)
    if name == "fedavgm":
        return fedavgm(base, server_lr=0.3 if server_lr is None else server_lr)
    adaptive = fedadam if name == "fedadam" else fedyogi
    return adaptive(base, server_lr=0.01 if server_lr is None else server_lr)


def steps_named(name: StepName, *, lr: float) -> StepRule[Any]:
    """The step rule of that name; lr is SGD's, Delta-SGD finds its own."""
    return sgd(lr) if name == "sgd" else delta_sgd()


def plan_named(name: OrderName, *, epochs: int, batch_size: int) -> BatchPlan:
    """The batch plan of that name: shuffled, or a data curriculum under the received model."""
    if name == "shuffled":
        return shuffled_epochs(epochs=epochs, batch_size=batch_size)
    return data_curriculum(epochs=epochs, batch_size=batch_size, order=name)


def selection_named(name: SelectionName) -> Selection[Any]:
    """The selection of that name; curriculum has the easiest clients first."""
    made: dict[str, Callable[[], Selection[Any]]] = {
        "uniform": uniform,
        "poisson": poisson,
        "curriculum": client_curriculum,
    }
    return made[name]()


def aggregator_named(name: AggregatorName, *, weights: Weights, byzantine: int) -> Aggregator[Any]:
    """The aggregator of that name; weights are the mean's, byzantine the robust rules'.

    Raises:
        InputError: byzantine is given to a rule that has no such number.
    """
    if name in ("mean", "median", "principal_directions"):
        if byzantine:
            raise InputError(
                f"aggregator: byzantine must be 0 for {name}, which assumes no number of "
                f"attackers; got {byzantine}. Leave it out, or use trimmed_mean."
            )
        if name == "principal_directions":
            return principal_directions()
        return mean(weights) if name == "mean" else coordinate_median()
    robust = {
        "trimmed_mean": trimmed_mean,
        "krum": krum,
        "multi_krum": multi_krum,
        "nearest_neighbours": nearest_neighbours,
    }
    return robust[name](byzantine=byzantine)


def attack_named(name: AttackName, *, attackers: int, strength: float | None) -> Attack | None:
    """The attack of that name by so many clients; strength None is its own default.

    It is the scale of sign_flip, the z of little_is_enough, the epsilon of inner_product.

    Raises:
        InputError: attackers or a strength are given to what has none.
    """
    if name == "none" and attackers:
        raise InputError(
            f"attack: attackers must be 0 without an attack; got {attackers}. Add --attack."
        )
    if name in ("none", "label_flip") and strength is not None:
        raise InputError(
            f"attack: attack_strength must be left out for {name}; got {strength}. "
            "It is for sign_flip, little_is_enough and inner_product."
        )
    if name == "none":
        return None
    if name == "label_flip":
        return label_flip(attackers)
    given = () if strength is None else (strength,)
    made = {
        "sign_flip": sign_flip,
        "little_is_enough": little_is_enough,
        "inner_product": inner_product,
    }
    return made[name](attackers, *given)
