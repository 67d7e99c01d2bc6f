"""The contract batteries, open to other people's strategies and mechanisms.

from fedsim.testing import check_mechanism, check_strategy
check_strategy(my_strategy)
check_mechanism(my_mechanism)
"""

from fedsim.testing.contracts import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.testing.inputs import RunInputs, inputs_of
from fedsim.testing.mechanism_contracts import MECHANISM_CHECKS, check_mechanism
from fedsim.testing.reference import run_reference
from fedsim.testing.world import direct, run_rounds

__all__ = [
    "MECHANISM_CHECKS",
    "STRATEGY_CHECKS",
    "ContractError",
    "RunInputs",
    "check_mechanism",
    "check_strategy",
    "direct",
    "inputs_of",
    "run_reference",
    "run_rounds",
]
