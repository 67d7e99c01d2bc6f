"""The contract battery, open to other people's strategies.

from fedsim.testing import check_strategy
check_strategy(my_strategy)
"""

from fedsim.testing.contracts import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.testing.inputs import RunInputs, inputs_of
from fedsim.testing.reference import run_reference
from fedsim.testing.world import direct, run_rounds

__all__ = [
    "STRATEGY_CHECKS",
    "ContractError",
    "RunInputs",
    "check_strategy",
    "direct",
    "inputs_of",
    "run_reference",
    "run_rounds",
]
