"""A strategy of your own, from idea to figure, in one page.

Lesson    a strategy is a record of pure functions; change one and keep the rest
Runtime   half a minute on two cores
Expected  both end above 85 % on the digits; holding the server back costs about one point
Status    correct end to end; nothing in it is private
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedsim.cli.console import Progress
from fedsim.core import trees
from fedsim.core.scenario import AnyStrategy
from fedsim.core.settings import Settings
from fedsim.core.updates import Released
from fedsim.runs.description import describe
from fedsim.runs.runner import run_prepared
from fedsim.server.setup import prepare
from fedsim.testing import check_strategy
from scenarios.digits_quickstart import scenario
from strategies import fedavg
from strategies.step_rules import sgd

ROUNDS = 40
LARGEST_MOVE = 0.2


def cautious(base: AnyStrategy, largest: float) -> AnyStrategy:
    """`base`, whose server never moves the model by more than `largest` in a round."""

    def update(server: Any, released: Released) -> Any:
        size = trees.norm(released.diff)
        return base.update(
            server, released.map(lambda diff: trees.scale(diff, (largest / size).clamp(max=1)))
        )

    return replace(base, name=f"cautious({base.name})", update=update)


def main() -> None:
    """Check the strategy against its contract, then run it beside FedAvg."""
    plain = fedavg(steps=sgd(0.1))
    mine = cautious(plain, LARGEST_MOVE)
    check_strategy(mine)  # widths, resuming, NaN clients, the wire ...
    for strategy in (plain, mine):
        world = replace(scenario(rounds=ROUNDS), strategy=strategy)
        prepared = prepare(world, Settings(seed=1))
        description = describe("digits", {}, prepared, "cohort")
        with TemporaryDirectory() as folder, Progress(strategy.name) as progress:
            summary = run_prepared(prepared, description, [progress], out=Path(folder) / "run")
        accuracy = summary["test_accuracy"]
        print(f"{strategy.name}: {100 * accuracy:.1f} %")
        assert accuracy > 0.85


if __name__ == "__main__":
    main()
