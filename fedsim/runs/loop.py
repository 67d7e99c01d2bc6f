"""The loop over rounds: charge, train, evaluate, record, checkpoint. Knows nothing of Flower."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import OPENING, Account, over_budget
from fedsim.core.profile import Profile
from fedsim.runs.callbacks import Callback
from fedsim.runs.folder import Metrics, RunFolder
from fedsim.server.observed import finish_observed
from fedsim.server.round import Outcome, ServerState, begin, plan_round, train
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Exchange, Replies, Work
from fedsim.training.client_state import ClientStates
from fedsim.training.evaluation import Evaluation, evaluate, spread

_SHARE = 20  # a checkpoint may take one part in this many of a run's time


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
    callbacks: Sequence[Callback] = (),
    states: ClientStates | None = None,
    profile: Profile | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Finished:
    """Run all rounds that are left, from the folder's checkpoint if it has one.

    Args:
        prepared: what to run.
        exchange: how clients are reached.
        folder: where metrics and checkpoints go.
        callbacks: what is called after each round, and may stop the run.
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
    scenario, times = prepared.scenario, profile or Profile()
    start = _restore(prepared, folder, states)
    state, account, metrics, accepted = start.state, start.account, start.metrics, start.accepted
    checkpoint = _Checkpoint(folder, states, clock)
    stateful = bool(trees.leaves(prepared.client_template))
    stopped: str | None = None
    last: Evaluation | None = None

    def timed(work: Work) -> Iterator[Replies]:
        return times.each("messages", exchange(work))

    for callback in callbacks:
        callback.run_started(scenario.rounds, start.round_num, folder.path)
    for round_num in range(start.round_num + 1, scenario.rounds + 1):
        began = clock()
        with times.part("sampling"):
            work = plan_round(prepared, state, round_num, accepted, exchange)
        with times.part("accounting"):
            charge = _charge(prepared, account, work)
        if charge.refused is not None:
            stopped = charge.refused
            break
        account = charge.account
        folder.charge(work.entries)
        with times.part("aggregation"):
            outcome, sighting = finish_observed(prepared, state, work, train(prepared, work, timed))
        state = outcome.state
        if stateful:
            accepted.update(dict.fromkeys(outcome.accepted, round_num))
        params = scenario.strategy.params(state.strategy)
        due = round_num % scenario.evaluate_every == 0 or round_num == scenario.rounds
        with times.part("evaluation"):
            last = evaluate(scenario.task, params, prepared.dealt) if due else None
        row = _row(round_num, clock() - began, len(work.clients), outcome, last)
        if account is not None:
            row["epsilon"] = charge.epsilon
        metrics.append(row)
        with times.part("storage"):
            if sighting is not None:  # before the row: canaries.jsonl covers every round with a row
                folder.sighted(sighting.row(round_num))
            folder.append(row)
            checkpoint.save(round_num, state, accepted, now=round_num == scenario.rounds)
        wishes = [callback.round_done(row) for callback in callbacks]  # all of them are called
        if True in wishes:
            if round_num < scenario.rounds:
                stopped = f"a callback stopped the run after round {round_num}"
            break

    params = scenario.strategy.params(state.strategy)
    if stopped is not None:
        if not metrics:
            raise PrivacyError(f"run: {stopped}. Use a larger --epsilon, or more noise.")
        checkpoint.save(metrics[-1]["round"], state, accepted, now=True)
        last = _evaluate_last(prepared, params, folder, metrics)
    if last is None:  # resumed after its last round
        last = evaluate(scenario.task, params, prepared.dealt)
    return Finished(
        metrics=metrics, params=params, evaluation=last, account=account, stopped=stopped
    )


# --- the budget ----------------------------------------------------------------------------------


class _Charge(NamedTuple):
    """A round's charge. epsilon: after it; None: no guarantee. refused: why it may not begin."""

    account: Account | None
    epsilon: float | None = None
    refused: str | None = None


def _charge(prepared: PreparedRun, account: Account | None, work: Work) -> _Charge:
    """Charge a round before it begins, or refuse it."""
    if account is None:
        return _Charge(None)
    scenario = prepared.scenario
    charged = account.charge(work.entries)
    last = work.round_num == scenario.rounds
    epsilon = charged.exactly() if last else charged.epsilon()
    return _Charge(charged, epsilon, over_budget(scenario.budget, charged, work.round_num))


# --- checkpoints ---------------------------------------------------------------------------------


class _Start(NamedTuple):
    """Where a run starts: the rounds done, the server's state, the accepted replies, the rest."""

    round_num: int
    state: ServerState
    accepted: dict[int, int]
    account: Account | None
    metrics: list[Metrics]


def _restore(prepared: PreparedRun, folder: RunFolder, states: ClientStates | None) -> _Start:
    """Go back to the folder's checkpoint, or to the start; later rounds are forgotten.

    `states` takes over what the checkpoint holds of the clients.

    Raises:
        InputError: the ledger does not end as the checkpoint says.
    """
    state, done, accepted, seal = begin(prepared), 0, dict[int, int](), OPENING
    kept = folder.load_checkpoint()
    if kept is not None:
        if states is not None:
            states.restore(kept["clients"])
        tensors = [
            tensor.to(like.device)
            for tensor, like in zip(kept["server"], trees.leaves(state), strict=True)
        ]
        state = trees.rebuild(state, tensors)
        done, accepted, seal = kept["round"], kept["accepted"], kept.get("seal", OPENING)
    entries = folder.rewind_ledger(done, seal)
    account = prepared.scenario.mechanism.account()
    spent = None if account is None else account.charge(entries)
    return _Start(done, state, accepted, spent, folder.rewind(done))


@dataclass
class _Checkpoint:
    """Saves checkpoints, as often as they may take time."""

    folder: RunFolder
    states: ClientStates | None
    clock: Callable[[], float]
    saved_at: float = field(init=False)
    cost: float = 0.0

    def __post_init__(self) -> None:
        self.saved_at = self.clock()

    def save(
        self, round_num: int, state: ServerState, accepted: dict[int, int], *, now: bool
    ) -> None:
        """Save all that the rest of the run depends on, now or where it is due.

        Randomness is keyed, so the number of the round is the state of all streams.
        """
        before = self.clock()
        if not now and before - self.saved_at < _SHARE * self.cost:
            return
        content: dict[str, Any] = {
            "round": round_num,
            "server": [leaf.cpu() for leaf in trees.leaves(state)],
            "accepted": dict(accepted),
            "clients": None if self.states is None else self.states.export(),
            "seal": self.folder.seal,
        }
        self.folder.save_checkpoint(content)
        self.saved_at = self.clock()
        self.cost = self.saved_at - before


# --- rows of metrics.jsonl -----------------------------------------------------------------------


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
    columns: Metrics = {"test_loss": evaluation.loss}
    if evaluation.accuracy is not None:
        columns["test_accuracy"] = evaluation.accuracy
    return columns | {"clients": spread(evaluation.personal)}


def _evaluate_last(
    prepared: PreparedRun, params: trees.Tree, folder: RunFolder, metrics: list[Metrics]
) -> Evaluation:
    """Evaluate the model of a run that stopped early; its last row gets what it lacks."""
    last = evaluate(prepared.scenario.task, params, prepared.dealt)
    if "test_loss" not in metrics[-1]:
        metrics[-1] |= _evaluated(last)
        folder.rewrite(metrics)
    return last
