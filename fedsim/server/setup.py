"""The set-up of a run: data read and dealt, model made, trainer ready."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from fedsim.canaries.examples import CanaryExamples
from fedsim.canaries.plan import Canaries, canary_objection, draw
from fedsim.core.dataset import Dataset
from fedsim.core.errors import InputError, PrivacyError, at_least, positive
from fedsim.core.machine import set_precision
from fedsim.core.scenario import AnyStrategy, Scenario
from fedsim.core.settings import Device, Settings
from fedsim.core.trees import Tree
from fedsim.models.tasks import in_bfloat16
from fedsim.training.autotune import choose
from fedsim.training.executor import Templates
from fedsim.training.oracle import PLAIN, OracleMaker, count_calls, private_oracles
from fedsim.training.trainer import Trainer
from fedsim.world.attacks import choose_attackers
from fedsim.world.population import Population, build_population


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything a run needs in one process, for the server's side and the clients' side alike.

    dealt: the population as the split dealt it. What clients train on is `trained_on`.
    initial_params, broadcast_template, diff_template, client_template: the model before round 1,
        and the structure and shapes of a broadcast, of an update, and of a client's state.
    attackers: the clients that attack.
    calls: gradients that a client asks for in a local step, where they are charged for.
    canaries: made-up clients or examples, where the scenario has any.
    """

    scenario: Scenario
    settings: Settings
    dealt: Population
    trainer: Trainer
    workers: int
    device: torch.device
    initial_params: Tree
    broadcast_template: Any
    diff_template: Tree
    client_template: Any
    attackers: frozenset[int] = frozenset()
    calls: int = 0
    canaries: Canaries | None = None

    @property
    def trained_on(self) -> Population:
        """The population with the attackers' labels and the canary examples in it."""
        return self.trainer.population

    @property
    def templates(self) -> Templates:
        """The structure of what travels, for workers."""
        return Templates(self.broadcast_template, self.diff_template, self.client_template)


def check_scenario(scenario: Scenario, settings: Settings) -> None:
    """Refuse a scenario that would hang or have no meaning, before any data are read.

    Raises:
        InputError: a size is below 1, the cohort is larger than the population, an attacker is not
            in it, or the strategy, the plan or the aggregator cannot go with the rest.
    """
    at_least("run", 1, "Give one or more.", rounds=scenario.rounds, population=scenario.population)
    at_least("run", 1, "Give one or more.", cohort=scenario.cohort)
    at_least("run", 1, "Give one or more.", evaluate_every=scenario.evaluate_every)
    at_least("run", 0, "Use 0 or any larger whole number.", seed=settings.seed)
    if settings.width is not None:
        at_least("run", 1, "Use auto to let the machine choose.", width=settings.width)
    if settings.workers is not None:
        at_least("run", 1, "Use auto to let the machine choose.", workers=settings.workers)
    if settings.precision == "bf16" and scenario.mechanism.example_rule is not None:
        raise InputError(
            "run: precision must be float32 or tf32 where gradients are clipped for each example; "
            "got 'bf16', whose norms are too coarse to bound anything. Leave --precision out."
        )
    for part in (scenario.strategy, scenario.plan, scenario.aggregator):
        reason = part.objection(scenario)
        if reason is not None:
            raise InputError(reason)
    for reason in (scenario.mechanism.objection(scenario), canary_objection(scenario)):
        if reason is not None:
            raise PrivacyError(reason)
    if scenario.budget is not None:
        positive("run", "Leave it out for no limit.", epsilon=scenario.budget)
        if scenario.mechanism.account() is None:
            raise PrivacyError(
                f"run: epsilon must be left out where nothing is private; got {scenario.budget}. "
                "Nothing is protected, so nothing is spent."
            )
    if scenario.cohort > scenario.population:
        raise InputError(
            f"run: cohort must be at most the population, {scenario.population}; "
            f"got {scenario.cohort}. Use --cohort {scenario.population} or less."
        )
    choose_attackers(scenario.attack, scenario.population, settings.seed)


def find_device(name: Device) -> torch.device:
    """The device of that name.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("run: device must be there; got 'cuda'. Use --device cpu or auto.")
    chosen = "cuda" if name == "auto" and torch.cuda.is_available() else name
    return torch.device("cpu" if chosen == "auto" else chosen)


def prepare(scenario: Scenario, settings: Settings) -> PreparedRun:
    """Read the data, deal them, make the model, and choose how many clients train at once.

    Raises:
        InputError: the scenario, the data files or the split cannot be used as asked.
    """
    check_scenario(scenario, settings)
    device = find_device(settings.device)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # same seed, same numbers
    if scenario.task.prepare is not None:
        scenario = replace(scenario, task=scenario.task.prepare(settings.data_dir))
    dataset = scenario.data.load(settings.data_dir)
    dealt = build_population(dataset, scenario.split, scenario.population, settings.seed).to(device)
    params = {name: t.to(device) for name, t in scenario.task.init(settings.seed).items()}
    broadcast, diff = _templates(scenario.strategy, params)
    canaries = draw(scenario, dealt, diff, settings.seed)
    attacking = choose_attackers(scenario.attack, scenario.population, settings.seed)
    population = _trained_on(scenario, dealt, attacking, canaries)
    trainer = _trainer(scenario, settings, population, params, device)
    client = trainer.initial_state(params)
    layout = choose(
        trainer,
        broadcast=broadcast,
        client=client,
        params=params,
        cohort=scenario.cohort,
        rounds=scenario.rounds,
        width=settings.width,
        workers=settings.workers,
    )
    return PreparedRun(
        scenario=scenario,
        settings=settings,
        dealt=dealt,
        trainer=replace(trainer, width=layout.width),
        workers=layout.workers,
        device=device,
        initial_params=params,
        broadcast_template=broadcast,
        diff_template=diff,
        client_template=client,
        attackers=attacking,
        calls=trainer.oracles.calls,
        canaries=canaries,
    )


def _trainer(
    scenario: Scenario,
    settings: Settings,
    population: Population,
    params: Tree,
    device: torch.device,
) -> Trainer:
    """The trainer, of the width that the user gave or of 1."""
    set_precision(settings.precision)
    return Trainer(
        task=in_bfloat16(scenario.task) if settings.precision == "bf16" else scenario.task,
        strategy=scenario.strategy,
        plan=scenario.plan,
        population=population,
        seed=settings.seed,
        width=settings.width or 1,
        device=device,
        oracles=_oracles(scenario, params, population.dataset),
        precision=settings.precision,
    )


def _templates(strategy: AnyStrategy, params: Tree) -> tuple[Any, Tree]:
    """A broadcast and one client's update, for their structure and shapes."""
    broadcast = strategy.broadcast(strategy.init(params), 1)
    client = strategy.client_init(params)
    diff, _ = strategy.local_end(strategy.local_init(broadcast, client), broadcast, client)
    return broadcast, diff


def _trained_on(
    scenario: Scenario, dealt: Population, attacking: frozenset[int], canaries: Canaries | None
) -> Population:
    """What clients train on: the dealt examples, with attackers' labels and canary examples."""
    attack, population = scenario.attack, dealt
    if attack is not None and attack.labels is not None:
        population = population.relabelled(attacking, attack.labels)
    return canaries.planted(population) if isinstance(canaries, CanaryExamples) else population


def _oracles(scenario: Scenario, params: Tree, dataset: Dataset) -> OracleMaker:
    """Plain oracles, or private ones where the mechanism has a rule for examples."""
    rule = scenario.mechanism.example_rule
    if rule is None:
        return PLAIN
    x, y = dataset.ready(dataset.train.x[:1]), dataset.train.y[:1]
    return private_oracles(rule, count_calls(scenario.strategy, scenario.task, params, x, y))
