"""A strategy of your own, from idea to figure, in one page.

Lesson    a strategy is a record of pure functions; change one and keep the rest
Runtime   half a minute on two cores
Expected  both end above 85 % on the digits; holding the server back costs about one point
Status    correct end to end; nothing in it is private
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fedsim
from scenarios.digits_quickstart import scenario

ROUNDS = 40
LARGEST_MOVE = 0.2


def cautious(base: Any, largest: float) -> Any:
    """`base`, whose server never moves the model by more than `largest` in a round."""

    def update(server: Any, released: Any) -> Any:
        def shorten(diff: Any) -> Any:
            size = sum(tensor.square().sum() for tensor in diff.values()) ** 0.5
            return {name: (largest / size).clamp(max=1) * t for name, t in diff.items()}

        return base.update(server, released.map(shorten))

    return replace(base, name=f"cautious({base.name})", update=update)


def main() -> None:
    """Check the strategy against its contract, then run it beside FedAvg."""
    world = scenario(rounds=ROUNDS)
    mine = cautious(world.strategy, LARGEST_MOVE)
    fedsim.check_strategy(mine)  # widths, resuming, NaN clients, the wire ...
    for strategy in (world.strategy, mine):
        result = fedsim.run(world, strategy=strategy)
        accuracy = result.summary["test_accuracy"]
        print(f"{strategy.name}: {100 * accuracy:.1f} %, in {result.folder}")
        assert accuracy > 0.85


if __name__ == "__main__":
    main()
