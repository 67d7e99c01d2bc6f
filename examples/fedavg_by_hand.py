"""FedAvg by hand: plain torch, a loop over rounds and a loop over clients.

Data, first model, cohorts and batches are those of `fedsim run digits_quickstart --rounds 10`,
which gives the same accuracies (McMahan et al. 2017, arXiv:1602.05629, Algorithm 1).

    python examples/fedavg_by_hand.py
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedsim.testing import RunInputs, inputs_of
from scenarios.digits_quickstart import scenario


def fedavg(inputs: RunInputs, rounds: int, lr: float) -> nn.Module:
    """Train a model by FedAvg; print its test accuracy after each round."""
    server = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    server.load_state_dict(inputs.params)
    for round_num in range(1, rounds + 1):
        total = {name: torch.zeros_like(value) for name, value in server.state_dict().items()}
        examples = 0
        for client in inputs.cohort(round_num):
            model = copy.deepcopy(server)
            optimizer = torch.optim.SGD(model.parameters(), lr=lr)
            for x, y in inputs.batches(round_num, client):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for name, value in model.state_dict().items():
                total[name] += inputs.num_examples(client) * value
            examples += inputs.num_examples(client)
        server.load_state_dict({name: value / examples for name, value in total.items()})
        with torch.no_grad():
            accuracy = (server(inputs.test.x).argmax(dim=1) == inputs.test.y).float().mean()
        print(f"round {round_num:2}: test accuracy {accuracy:.4f}")
    return server


if __name__ == "__main__":
    fedavg(inputs_of(scenario(), seed=1), rounds=10, lr=0.1)
