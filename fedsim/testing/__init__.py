"""The contract battery, open to other people's strategies.

from fedsim.testing import check_strategy
check_strategy(my_strategy)
"""

from fedsim.testing.contracts import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.testing.world import direct

__all__ = ["STRATEGY_CHECKS", "ContractError", "check_strategy", "direct"]
