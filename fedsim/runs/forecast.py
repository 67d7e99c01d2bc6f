"""What a run would be and cost, before it is run."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import over_budget
from fedsim.core.machine import peak_memory
from fedsim.runs.request import Request
from fedsim.server.round import begin, plan_round
from fedsim.server.setup import PreparedRun, prepare
from fedsim.server.transport import Replies, Work
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import evaluate
from fedsim.training.executor import Executor
from fedsim.training.executors.open import choose_workers, open_executor


def plan_request(asked: Request) -> dict[str, Any]:
    """Prepare what was asked for, and forecast it.

    Raises:
        InputError: the scenario cannot be run as asked.
        PrivacyError: the budget allows no round.
    """
    prepared = prepare(asked.scenario, choose_workers(asked.settings, asked.runtime))
    with open_executor(
        prepared.trainer, prepared.workers, prepared.templates, asked.runtime
    ) as executor:
        return forecast(prepared, executor)


def forecast(prepared: PreparedRun, executor: Executor) -> dict[str, Any]:
    """Sizes, traffic, memory and time of a run, from its data and from a trial of the executor.

    Every worker trains a chunk, twice, and the result is thrown away. Expected values are over
    which clients are chosen.
    """
    scenario, trainer = prepared.scenario, prepared.trainer
    counts = prepared.dealt.owned.counts().tolist()
    steps = [scenario.plan.num_steps(count) for count in counts]
    busy_share = sum(count > 0 for count in counts) / len(counts)
    down = trees.num_bytes(prepared.broadcast_template)
    up = trees.num_bytes(prepared.diff_template)
    trips = scenario.cohort * scenario.rounds
    evaluations = -(-scenario.rounds // scenario.evaluate_every)
    step_seconds = _step_seconds(prepared, executor)
    evaluation_seconds = _evaluation_seconds(prepared)
    model = trees.num_bytes(prepared.initial_params)
    return {
        "population": scenario.population,
        "cohort": scenario.cohort,
        "rounds": scenario.rounds,
        "sampling": scenario.selection.sampling.words,
        "sampling_prob": scenario.cohort / scenario.population,
        "examples_of_a_client": [min(counts), max(counts)],
        "empty_clients": sum(count == 0 for count in counts),
        "steps_of_a_client": {"mean": sum(steps) / len(steps), "max": max(steps)},
        "task": scenario.task.name,
        "parameters": sum(t.numel() for t in prepared.initial_params.values()),
        "strategy": scenario.strategy.name,
        "plan": scenario.plan.name,
        "aggregator": scenario.aggregator.name,
        "attack": None if scenario.attack is None else scenario.attack.name,
        "attackers": len(prepared.attackers),
        "width": trainer.width,
        "workers": prepared.workers,
        "bytes_down": down * trips,
        "bytes_up": round(up * trips * busy_share),
        # What is in memory by now (data, libraries, workers with a chunk each) is most of what a
        # run takes; the server's state and the running sum come on top.
        "memory_bytes": peak_memory() + executor.memory() + 4 * model,
        "seconds": sum(steps) / len(steps) * trips * step_seconds
        + evaluations * evaluation_seconds,
        "statement": scenario.mechanism.statement,
        **budget(prepared),
    }


def budget(prepared: PreparedRun) -> dict[str, Any]:
    """What the run will spend, round by round, from the cohorts that it will draw.

    epsilon: at the end, or where the budget stops the run; None without a guarantee.
    epsilon_after: round -> what is spent by then, for ten rounds. last_round: the last one that
    the budget allows.

    Raises:
        PrivacyError: the budget allows no round.
    """
    scenario = prepared.scenario
    account, state = scenario.mechanism.account(), begin(prepared)
    if account is None:
        return {"epsilon": None}
    spent = [account]
    for round_num in range(1, scenario.rounds + 1):
        work = plan_round(prepared, state, round_num, {}, _no_clients)
        spent.append(spent[-1].charge(work.entries))
        state = state._replace(selection=work.selection)
    last = scenario.rounds
    if over_budget(scenario.budget, spent[last], last) is not None:
        last = bisect_left(
            range(1, last + 1),
            True,
            key=lambda r: over_budget(scenario.budget, spent[r], r) is not None,
        )
    if last == 0:
        reason = over_budget(scenario.budget, spent[1], 1)
        raise PrivacyError(f"plan: {reason}. Use a larger --epsilon, or more noise.")
    shown = sorted({round(last * part / 10) for part in range(1, 11)} - {0})
    return {
        "epsilon": spent[last].exactly(),
        "delta": account.delta,
        "epsilon_after": {
            r: spent[r].exactly() if r == last else spent[r].epsilon() for r in shown
        },
        "last_round": last,
        "accountants": spent[last].beside(),
        "warnings": list(spent[last].warnings()),
    }


def refuse_no_round(prepared: PreparedRun) -> None:
    """Refuse a budget that does not allow the first round.

    Raises:
        PrivacyError: it does not.
    """
    scenario = prepared.scenario
    account = scenario.mechanism.account()
    if account is None or scenario.budget is None:
        return
    work = plan_round(prepared, begin(prepared), 1, {}, _no_clients)
    reason = over_budget(scenario.budget, account.charge(work.entries), 1)
    if reason is not None:
        raise PrivacyError(f"run: {reason}. Use a larger --epsilon, or more noise.")


def _no_clients(work: Work) -> Iterator[Replies]:
    """An exchange that refuses: under privacy a selection must not depend on clients' data."""
    raise PrivacyError("plan: selection must not ask clients for losses under privacy; it did.")


def _step_seconds(prepared: PreparedRun, executor: Executor) -> float:
    """Seconds of one local step of one client, all workers together at chunks of the usual width.

    At most a round's cohort is tried.
    """
    trainer, plan = prepared.trainer, prepared.scenario.plan
    several = 2 * prepared.workers * trainer.width
    counts = prepared.dealt.owned.counts().tolist()
    busy = [client for client, count in enumerate(counts) if count]
    chosen = busy[: min(several, prepared.scenario.cohort)]
    if not chosen:
        return 0.0
    chunks = list(trainer.chunks(chosen))
    states = ClientStates(prepared.client_template)

    def trial() -> None:
        made = executor.train(1, prepared.broadcast_template, chunks, lambda c: states.fetch(c, {}))
        for _ in made:
            pass

    trial()  # warm up
    began = time.perf_counter()
    trial()
    return (time.perf_counter() - began) / sum(plan.num_steps(counts[c]) for c in chosen)


def _evaluation_seconds(prepared: PreparedRun) -> float:
    began = time.perf_counter()
    evaluate(prepared.scenario.task, prepared.initial_params, prepared.dealt)
    return time.perf_counter() - began
