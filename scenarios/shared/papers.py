"""The setting that several papers share: image classification by a hundred clients, ten a round."""

from __future__ import annotations

from typing import Any

from fedsim.core.sampling import Selection
from fedsim.core.scenario import Aggregator, AnyStrategy, BatchPlan, Scenario
from fedsim.data import cifar10, fashion_mnist
from fedsim.models.tasks import classification
from fedsim.models.vision import lenet, resnet18_gn
from fedsim.world import partition
from privacy import none
from strategies import client_selection


def image_scenario(
    *,
    small: bool,
    alpha: float,
    strategy: AnyStrategy,
    plan: BatchPlan,
    aggregator: Aggregator[Any],
    rounds: int,
    evaluate_every: int,
    selection: Selection[Any] | None = None,
) -> Scenario:
    """A hundred clients with Dirichlet label shares; no privacy.

    small: Fashion-MNIST and a LeNet; otherwise CIFAR-10 and a ResNet-18 with GroupNorm.
    selection: uniform, if it is left out.
    """
    if small:
        data, task = fashion_mnist(), classification("lenet", lambda: lenet(10))
    else:
        data, task = cifar10(), classification("resnet18_gn", lambda: resnet18_gn(10))
    return Scenario(
        data=data,
        split=partition.dirichlet(alpha),
        task=task,
        strategy=strategy,
        plan=plan,
        selection=selection or client_selection.uniform(),
        aggregator=aggregator,
        mechanism=none(),
        population=100,
        cohort=10,
        rounds=rounds,
        evaluate_every=evaluate_every,
    )
