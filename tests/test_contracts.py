"""Every strategy goes through the contract battery; joining it is one line in CASES."""

from dataclasses import replace

import pytest
import torch

from fedsim import trees
from fedsim.check import STRATEGY_CHECKS, ContractError, check_strategy
from fedsim.steps import sgd
from strategies import fedadam, fedavg, fedavgm, fedprox, fedyogi

HEAVY = sgd(0.05, momentum=0.9, weight_decay=1e-3, decay=0.9)

CASES = [
    fedavg(steps=sgd(0.1)),
    replace(fedavg(steps=HEAVY, server_lr=0.5), name="fedavg with momentum steps"),
    fedprox(steps=sgd(0.1), mu=0.1),
    replace(fedprox(steps=HEAVY, mu=1.0), name="fedprox with momentum steps"),
    fedavgm(fedavg(steps=sgd(0.1)), server_lr=0.3),
    fedadam(fedavg(steps=sgd(0.1))),
    fedyogi(fedprox(steps=sgd(0.1), mu=0.1)),
]


@pytest.mark.parametrize("strategy", CASES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
def test_strategy_keeps_its_contract(strategy, check):
    check(strategy)
