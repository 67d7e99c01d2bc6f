"""A fedsim scenario as a Flower `Strategy`, for ServerApps of other people.

    strategy = FlowerStrategy(prepare(scenario, settings))
    strategy.start(grid, initial_arrays=strategy.initial_arrays(), num_rounds=10)

The clients must run our ClientApp (`fedsim.flower.client.client_app`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.core.errors import InputError, PrivacyError
from fedsim.core.ledger import Entry, over_budget
from fedsim.flower.exchange import grid_exchange, hosts
from fedsim.flower.messages import read_replies, train_messages
from fedsim.flower.wire import named_leaves, pack, unpack
from fedsim.server.observed import finish_observed
from fedsim.server.round import begin, forge_replies, plan_round
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Work
from fedsim.training.evaluation import evaluate


class FlowerStrategy(Strategy):
    """The algorithm of a scenario, driven by Flower's `Strategy.start`.

    Flower hands the model back to `configure_train` each round; the rest of the server's state is
    kept here. Evaluation is the server's, after each aggregation.

    ledger: what was charged so far; there is no run folder under Flower's loop to keep it.
    observations: of canaries, round by round, where there are any.

    Guarantees:
        Under Flower's own loop the model is that of our loop.
        A round that would exceed the scenario's budget is refused before any client is asked.
    """

    def __init__(self, prepared: PreparedRun) -> None:
        self._prepared = prepared
        self._state = begin(prepared)
        self._accepted: dict[int, int] = {}
        self._work: Work | None = None
        self._hosts: dict[int, int] = {}  # partition -> node
        self._asked: dict[int, int] = {}  # node -> the client it plays this round
        self._account = prepared.scenario.mechanism.account()
        self.ledger: list[Entry] = []
        self.observations: list[dict[str, Any]] = []

    def initial_arrays(self) -> ArrayRecord:
        """The initial model, for `Strategy.start`."""
        return pack(self._prepared.initial_params)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to each client of the round's cohort.

        Raises:
            PrivacyError: the round would exceed the budget.
        """
        self._hosts = self._hosts or hosts(grid)
        work = plan_round(
            self._prepared,
            self._state,
            server_round,
            self._accepted,
            grid_exchange(grid, self._prepared),
        )
        self._charge(work)
        self._asked = {self._hosts[client % len(self._hosts)]: client for client in work.clients}
        if len(self._asked) < len(work.clients):
            raise InputError(
                f"FlowerStrategy: nodes must be one for each client, "
                f"{self._prepared.scenario.population}; got "
                f"{len(self._hosts)}. Start more, or use fedsim's own ServerApp, which sends waves."
            )
        self._work = work
        return train_messages(work, list(self._asked.values()), self._hosts)

    def _charge(self, work: Work) -> None:
        if self._account is None:
            return
        self._account = self._account.charge(work.entries)
        budget = self._prepared.scenario.budget
        reason = over_budget(budget, self._account, work.round_num)
        if reason is not None:
            raise PrivacyError(f"FlowerStrategy: {reason}. Run fewer rounds.")
        self.ledger += work.entries

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine the replies, release them, and step the server.

        Raises:
            RuntimeError: `configure_train` was not called before.
        """
        if self._work is None:
            raise RuntimeError("aggregate_train: configure_train must come first.")
        prepared, diff = self._prepared, self._prepared.diff_template
        portion = {self._asked[reply.metadata.src_node_id]: reply for reply in replies}
        read = read_replies(portion, named_leaves(diff), diff, prepared.device)
        outcome, observation = finish_observed(
            prepared, self._state, self._work, forge_replies(prepared, [read])
        )
        self._state = outcome.state
        if observation is not None:
            self.observations.append(observation.row(server_round))
        self._accepted.update(dict.fromkeys(outcome.accepted, server_round))
        params = prepared.scenario.strategy.params(self._state.strategy)
        metrics = MetricRecord({"rejected": len(outcome.rejected)})
        if outcome.train_loss is not None:
            metrics["train-loss"] = outcome.train_loss
        return pack(params), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: the server evaluates."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing: the server evaluates."""
        return None

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Test loss and accuracy, as Flower's `evaluate_fn`."""
        prepared = self._prepared
        params = unpack(arrays, prepared.initial_params, prepared.device)
        result = evaluate(prepared.scenario.task, params, prepared.dealt)
        found = {"test-loss": result.loss, "test-accuracy": result.accuracy}
        return MetricRecord({key: value for key, value in found.items() if value is not None})

    def summary(self) -> None:
        """Nothing: Flower calls this before it starts, and the run prints its own summary."""
