"""The loop: rounds, evaluation, metrics and checkpoints. Knows nothing of Flower."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import OPENING, Account
from fedsim.core.profile import Profile
from fedsim.runs.folder import Metrics, RunFolder
from fedsim.server.round import Outcome, ServerState, begin, finish_round, plan_round
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import Evaluation, evaluate, spread

_SHARE = 20  # a checkpoint may take one part in this many of a run's time


class Observer(Protocol):
    """Somebody who watches a run."""

    def started(self, rounds: int, done: int, folder: RunFolder) -> None:
        """The run starts, or goes on after `done` rounds."""
        ...

    def round_done(self, metrics: Metrics) -> None:
        """A round is over."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run at its end: every round's metrics, the final model, and its evaluation.

    account: what it has spent, if anything is protected. stopped: why before its last round.
    """

    metrics: list[Metrics]
    params: dict[str, torch.Tensor]
    evaluation: Evaluation
    account: Account | None = None
    stopped: str | None = None


def simulate(
    prepared: PreparedRun,
    exchange: Exchange,
    folder: RunFolder,
    observer: Observer,
    states: ClientStates | None = None,
    profile: Profile | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Finished:
    """Run all rounds that are left, from the folder's checkpoint if it has one.

    Args:
        prepared: what to run.
        exchange: how clients are reached.
        folder: where metrics and checkpoints go.
        observer: who is told.
        states: the client states of this process, which belong to the checkpoint; None where they
            live on other machines.
        profile: notes where the time goes.
        clock: seconds, for `seconds` and for how often to checkpoint; it changes no result.

    Guarantees:
        Killed at any moment and resumed, the metrics are those of a run that was not, bit for bit
        on the same machine, apart from times.
        A round is charged before it is worked on, and none is begun that would exceed the budget.

    Raises:
        PrivacyError: the budget allows no round at all.
    """
    scenario = prepared.scenario
    times = profile or Profile()
    done, held, accepted, seal = _start(prepared, folder, states)
    stateful = bool(trees.leaves(prepared.client_template))
    account, metrics = _spent(prepared, folder, done, seal), folder.rewind(done)
    stopped: str | None = None
    observer.started(scenario.rounds, done, folder)

    last: Evaluation | None = None
    saved_at, cost = clock(), 0.0
    for round_num in range(done + 1, scenario.rounds + 1):
        began = clock()
        with times.part("sampling"):
            work = plan_round(prepared, held, round_num, accepted, exchange)
        epsilon: float | None = None
        if account is not None:
            with times.part("accounting"):
                charged = account.charge(work.entries)
                last_one = round_num == scenario.rounds
                epsilon = charged.exactly() if last_one else charged.epsilon()
                stopped = over_budget(scenario.budget, charged, round_num)
            if stopped is not None:
                break
            account = charged
            folder.charge(work.entries)
        with times.part("aggregation"):
            portions = times.each("messages", exchange(work))
            outcome = finish_round(prepared, held, work, portions)
        held = outcome.held
        if stateful:
            accepted.update(dict.fromkeys(outcome.accepted, round_num))
        params = scenario.strategy.params(held.server)
        due = round_num % scenario.evaluate_every == 0 or round_num == scenario.rounds
        with times.part("evaluation"):
            last = evaluate(scenario.task, params, prepared.dealt) if due else None
        row = _row(round_num, clock() - began, len(work.clients), outcome, last)
        if account is not None:
            row["epsilon"] = epsilon
        metrics.append(row)
        with times.part("storage"):
            if outcome.sighting is not None:  # first: what has a row is to be seen whole
                folder.sighted(outcome.sighting.row(round_num))
            folder.append(row)
            if round_num == scenario.rounds or clock() - saved_at >= _SHARE * cost:
                before = clock()
                folder.save_checkpoint(_state(round_num, held, accepted, states, folder.seal))
                saved_at = clock()
                cost = saved_at - before
        observer.round_done(row)

    params = scenario.strategy.params(held.server)
    if stopped is not None:
        if not metrics:
            raise PrivacyError(f"run: {stopped}. Use a larger --epsilon, or more noise.")
        last_round = metrics[-1]["round"]
        folder.save_checkpoint(_state(last_round, held, accepted, states, folder.seal))
        if "test_loss" not in metrics[-1]:  # people want to know where the budget ended
            last = evaluate(scenario.task, params, prepared.dealt)
            metrics[-1] |= _evaluated(last)
            folder.rewrite(metrics)
    if last is None:  # resumed after its last round
        last = evaluate(scenario.task, params, prepared.dealt)
    return Finished(
        metrics=metrics, params=params, evaluation=last, account=account, stopped=stopped
    )


def _spent(prepared: PreparedRun, folder: RunFolder, done: int, seal: str) -> Account | None:
    """What the rounds that are done have spent, by the ledger; later entries are forgotten.

    Raises:
        InputError: the ledger does not end as the checkpoint says.
    """
    entries = folder.rewind_ledger(done, seal)
    account = prepared.scenario.mechanism.account()
    return None if account is None else account.charge(entries)


def over_budget(budget: float | None, account: Account, round_num: int) -> str | None:
    """Why a round may not be begun, or None. account: with what that round would spend."""
    if budget is None:
        return None
    epsilon = account.epsilon()
    if epsilon is not None and epsilon > budget:
        epsilon = account.exactly()
    if epsilon is not None and epsilon <= budget:
        return None
    if epsilon is None:
        return f"the budget of epsilon {budget:g} cannot be kept, as there is no guarantee"
    return f"round {round_num} would take epsilon to {epsilon:.4g}, above the budget of {budget:g}"


def _start(
    prepared: PreparedRun, folder: RunFolder, states: ClientStates | None
) -> tuple[int, ServerState, dict[int, int], str]:
    """Rounds done, what the server holds, the accepted replies, the ledger's seal by then.

    They are the checkpoint's, or of nothing.

    `states` takes over what the checkpoint holds of the clients.
    """
    held = begin(prepared)
    checkpoint = folder.load_checkpoint()
    if checkpoint is None:
        return 0, held, {}, OPENING
    if states is not None:
        states.restore(checkpoint["clients"])
    tensors = [
        tensor.to(like.device)
        for tensor, like in zip(checkpoint["server"], trees.leaves(held), strict=True)
    ]
    held = trees.rebuild(held, tensors)
    return checkpoint["round"], held, checkpoint["accepted"], checkpoint.get("seal", OPENING)


def _state(
    round_num: int,
    held: ServerState,
    accepted: dict[int, int],
    states: ClientStates | None,
    seal: str,
) -> dict[str, Any]:
    """All that the rest of the run depends on. Streams are keyed, so the round is their state.

    seal: the ledger's by then.
    """
    return {
        "round": round_num,
        "server": [leaf.cpu() for leaf in trees.leaves(held)],
        "accepted": dict(accepted),
        "clients": None if states is None else states.export(),
        "seal": seal,
    }


def _row(
    round_num: int, seconds: float, cohort: int, outcome: Outcome, evaluation: Evaluation | None
) -> Metrics:
    row: Metrics = {
        "round": round_num,
        "seconds": round(seconds, 6),
        "cohort": cohort,
        "accepted": len(outcome.accepted),
        "empty": len(outcome.empty),
        "rejected": {str(client): reason for client, reason in outcome.rejected.items()},
        "bytes_down": outcome.bytes_down,
        "bytes_up": outcome.bytes_up,
        "train_loss": outcome.train_loss,
    }
    return row if evaluation is None else row | _evaluated(evaluation)


def _evaluated(evaluation: Evaluation) -> Metrics:
    found: Metrics = {"test_loss": evaluation.loss}
    if evaluation.accuracy is not None:
        found["test_accuracy"] = evaluation.accuracy
    return found | {"clients": spread(evaluation.personal)}
