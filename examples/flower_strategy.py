"""Our FedProx in a ServerApp that is not ours, driven by Flower's own `Strategy.start`.

Lesson    a fedsim strategy is a Flower strategy; here it runs over our in-process Grid, and the
          same two apps run over Flower's (see docs/guides/flower.md)
Runtime   ten seconds on two cores
Expected  more than 75 % on the digits after 15 rounds; Flower's Result holds the metrics
Status    correct end to end; nothing in it is private
"""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim.core.settings import Settings
from fedsim.flower.client import client_app
from fedsim.flower.grid import CohortGrid, in_process, server_context
from fedsim.flower.strategy import FlowerStrategy
from fedsim.server.setup import prepare
from scenarios.digits_quickstart import scenario

ROUNDS = 15

app = ServerApp()
prepared = prepare(scenario(strategy="fedprox", mu=0.1, population=60, cohort=20), Settings(seed=1))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A plain Flower ServerApp."""
    strategy = FlowerStrategy(prepared)
    result = strategy.start(
        grid, strategy.initial_arrays(), num_rounds=ROUNDS, evaluate_fn=strategy.evaluate
    )
    accuracy = result.evaluate_metrics_serverapp[ROUNDS]["test-accuracy"]
    print(f"fedprox under Flower's loop: {100 * float(str(accuracy)):.1f} %")
    assert float(str(accuracy)) > 0.75


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with in_process():
        clients = client_app(lambda _: prepared)
        app(CohortGrid(clients, num_nodes=60), server_context({}))
