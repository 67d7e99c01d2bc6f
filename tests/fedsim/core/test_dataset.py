"""The fingerprint of a dataset."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.core.dataset import Dataset, Examples, Scale


def tiny():
    return Dataset(
        name="tiny",
        train=Examples(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long()),
        test=Examples(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long()),
        num_classes=2,
        scale=Scale(mean=(0.5,), std=(0.5,)),
        train_owners=np.array(["a", "a", "b"]),
    )


def with_a_one(tensor):
    changed = tensor.clone()
    changed.view(-1)[-1] = 1
    return changed


OTHERS = {
    "a train pixel": lambda d: {"train": d.train._replace(x=with_a_one(d.train.x))},
    "a train label": lambda d: {"train": d.train._replace(y=with_a_one(d.train.y))},
    "a test pixel": lambda d: {"test": d.test._replace(x=with_a_one(d.test.x))},
    "a shape": lambda d: {"train": d.train._replace(x=d.train.x.reshape(3, 1, 1, 4))},
    "an owner": lambda d: {"train_owners": np.array(["a", "b", "b"])},
    "no owners": lambda d: {"train_owners": None},
    "the scale": lambda d: {"scale": Scale(mean=(0.4,), std=(0.5,))},
}


@pytest.mark.parametrize(
    "what",
    OTHERS,
)
def test_the_fingerprint_tells_apart_datasets_that_differ_in(what):
    dataset = tiny()
    assert dataset.fingerprint() == tiny().fingerprint()
    assert replace(dataset, **OTHERS[what](dataset)).fingerprint() != dataset.fingerprint()
