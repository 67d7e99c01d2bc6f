"""The contract battery, open to other people's strategies.

from fedsim.check import check_strategy
check_strategy(my_strategy)
"""

from fedsim.check.contracts import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.check.world import direct

__all__ = ["STRATEGY_CHECKS", "ContractError", "check_strategy", "direct"]
