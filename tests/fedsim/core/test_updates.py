"""The wrong order of a round is a type error, not a review comment."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

HEADER = """
from fedsim.core.scenario import AnyStrategy, Aggregator, Mechanism
from fedsim.core.updates import Aggregate, Bounded, Noise, Released, Update

def program(
    strategy: AnyStrategy, aggregator: Aggregator[float], mechanism: Mechanism[tuple[()]],
    update: Update, bounded: Bounded, aggregate: Aggregate, released: Released, noise: Noise,
) -> None:
"""

RIGHT = [
    "aggregator.add(0.0, mechanism.bound((), update))",
    "strategy.update(None, mechanism.release((), aggregate, noise)[0])",
]
WRONG = {
    "an unclipped update into the sum": "aggregator.add(0.0, update)",
    "a raw update into the server": "strategy.update(None, update)",
    "an aggregate without noise into the server": "strategy.update(None, aggregate)",
    "noise before the sum": "mechanism.release((), bounded, noise)",
}


@pytest.mark.slow
def test_the_wrong_order_does_not_type_check(tmp_path):
    program = tmp_path / "program.py"
    lines = [*RIGHT, *WRONG.values()]
    program.write_text(HEADER + "".join(f"    {line}\n" for line in lines))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    first = HEADER.count("\n") + 1 + len(RIGHT)
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines() if "arg-type" in line]
    assert found == list(range(first, first + len(WRONG))), done.stdout
