"""The loop over rounds: charge, train, evaluate, record, checkpoint. Does not use Flower."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from fedsim.canaries.plan import RoundObservation
from fedsim.core import trees
from fedsim.core.errors import PrivacyError
from fedsim.core.ledger import OPENING, Account, over_budget
from fedsim.core.profile import Profile
from fedsim.core.trees import Tree
from fedsim.runs.callbacks import Callback, wants_to_stop
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
    run, metrics = start.run, start.metrics
    checkpoint = _Checkpoint(folder, states, clock)
    stopped: str | None = None
    for callback in callbacks:
        callback.run_started(scenario.rounds, start.round_num, folder.path)
    for round_num in range(start.round_num + 1, scenario.rounds + 1):
        played = _play(prepared, exchange, folder, run, round_num, times, clock)
        if played.refused is not None:
            stopped = played.refused
            break
        run = played.run
        metrics.append(played.row)
        with times.part("storage"):
            if played.observation is not None:  # first: every round with a row has its canaries
                folder.append_observation(played.observation.row(round_num))
            folder.append(played.row)
            checkpoint.save(round_num, run, now=round_num == scenario.rounds)
        # All are called, each with a row of its own: what they do to it changes no result.
        wishes = [wants_to_stop(each.round_done(deepcopy(played.row))) for each in callbacks]
        if any(wishes) and round_num < scenario.rounds:
            stopped = f"a callback stopped the run after round {round_num}"
            break

    if stopped is not None:
        if not metrics:
            raise PrivacyError(f"run: {stopped}. Use a larger --epsilon, or more noise.")
        checkpoint.save(metrics[-1]["round"], run, now=True)
    params = scenario.strategy.params(run.state.strategy)
    last = run.evaluation or _evaluate_last(prepared, params, folder, metrics)
    return Finished(
        metrics=metrics, params=params, evaluation=last, account=run.account, stopped=stopped
    )


class _Run(NamedTuple):
    """The state of a run after a round.

    accepted: client -> the last round whose reply was accepted; for strategies with client state.
    evaluation: of the newest round, if it was evaluated in this process.
    """

    state: ServerState
    accepted: dict[int, int]
    account: Account | None
    evaluation: Evaluation | None = None


class _Played(NamedTuple):
    """A round. refused: why the budget did not let it begin; then there is nothing else."""

    run: _Run
    row: Metrics
    observation: RoundObservation | None = None
    refused: str | None = None


def _play(
    prepared: PreparedRun,
    exchange: Exchange,
    folder: RunFolder,
    run: _Run,
    round_num: int,
    times: Profile,
    clock: Callable[[], float],
) -> _Played:
    """One round: choose, charge, train, finish, evaluate."""
    scenario, began = prepared.scenario, clock()
    with times.part("sampling"):
        work = plan_round(prepared, run.state, round_num, run.accepted, exchange)
    with times.part("accounting"):
        charge = _charge(prepared, run.account, work)
    if charge.refused is not None:
        return _Played(run, {}, refused=charge.refused)
    folder.charge(work.entries)

    def timed(work: Work) -> Iterator[Replies]:
        return times.each("messages", exchange(work))

    with times.part("aggregation"):
        replies = train(prepared, work, timed)
        outcome, observation = finish_observed(prepared, run.state, work, replies)
    due = round_num % scenario.evaluate_every == 0 or round_num == scenario.rounds
    params = scenario.strategy.params(outcome.state.strategy)
    with times.part("evaluation"):
        evaluation = evaluate(scenario.task, params, prepared.dealt) if due else None
    row = _row(round_num, clock() - began, len(work.clients), outcome, evaluation)
    if charge.account is not None:
        row["epsilon"] = charge.epsilon
    if trees.leaves(prepared.client_template):
        run.accepted.update(dict.fromkeys(outcome.accepted, round_num))
    after = _Run(outcome.state, run.accepted, charge.account, evaluation)
    return _Played(after, row, observation)


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
    """Where a run starts: the number of finished rounds, the state after them, their metrics."""

    round_num: int
    run: _Run
    metrics: list[Metrics]


def _restore(prepared: PreparedRun, folder: RunFolder, states: ClientStates | None) -> _Start:
    """Go back to the folder's checkpoint, or to the start; later rounds are run again.

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
    return _Start(done, _Run(state, accepted, spent), folder.rewind(done))


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

    def save(self, round_num: int, run: _Run, *, now: bool) -> None:
        """Save all that the rest of the run depends on, now or where it is due.

        Randomness is keyed, so the number of the round is the state of all streams.
        """
        before = self.clock()
        if not now and before - self.saved_at < _SHARE * self.cost:
            return
        content: dict[str, Any] = {
            "round": round_num,
            "server": [leaf.cpu() for leaf in trees.leaves(run.state)],
            "accepted": dict(run.accepted),
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
    prepared: PreparedRun, params: Tree, folder: RunFolder, metrics: list[Metrics]
) -> Evaluation:
    """Evaluate the final model; the last row gets what it lacks of it."""
    last = evaluate(prepared.scenario.task, params, prepared.dealt)
    if "test_loss" not in metrics[-1]:
        metrics[-1] |= _evaluated(last)
        folder.rewrite(metrics)
    return last
