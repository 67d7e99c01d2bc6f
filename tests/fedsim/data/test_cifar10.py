"""CIFAR-10's original pickles, and damaged or malicious ones."""

import os
import pickle
import runpy
import shutil

import numpy as np
import pytest
import torch

from fedsim import data
from fedsim.core.errors import InputError

PARTS = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.fixture
def batches(tmp_path):
    """The folder of the pickles; 180 MB when full, so it does not outlive the test."""
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def test_cifar10_pickles_are_read_in_order_and_by_colour_plane(batches, real_data):
    as_python_2_wrote = runpy.run_path(str(real_data / "cifar10" / "to_batches_py.py"))["batch"]
    for number, name in enumerate(PARTS, start=1):
        pixels = np.zeros((10_000, 3072), dtype=np.uint8)
        pixels[number, 1 * 1024 + 2 * 32 + 3] = number  # green, third row, fourth column
        (batches / name).write_bytes(as_python_2_wrote("", [number] * 10_000, pixels, []))
    dataset = data.cifar10().load(batches.parents[1])
    numbers = torch.arange(1, 6)
    marked = dataset.train.x.nonzero()
    places = torch.stack(
        [(numbers - 1) * 10_000 + numbers, *torch.tensor([[1] * 5, [2] * 5, [3] * 5])]
    )
    assert torch.equal(marked, places.T)
    assert torch.equal(dataset.train.x[marked.unbind(1)].long(), numbers)
    assert torch.equal(dataset.train.y, numbers.repeat_interleave(10_000))
    assert dataset.test.x[6, 1, 2, 3] == 6
    assert dataset.test.y.tolist() == [6] * 10_000


class Malicious:
    """Makes a folder when it is unpickled, as it could do anything else."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(batches, tmp_path):
    batch = pickle.dumps({b"data": Malicious(tmp_path / "ran"), b"labels": []})
    (batches / "data_batch_1").write_bytes(batch)
    with pytest.raises(InputError, match=r"data_batch_1 must be .*\.mkdir is not part of an array"):
        data.cifar10().load(tmp_path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(batch)  # and it does run where nothing stops it
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"<html>not found</html>", "UnpicklingError"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}, 2)[:-40], "UnpicklingError"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}, 2), "KeyError: b'labels'"),
        (pickle.dumps({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, 2), "ValueError"),
    ],
    ids=["no pickle", "cut short", "no labels", "too few pixels"],
)
def test_a_corrupt_batch_is_named_with_what_was_expected_and_found(batches, content, got):
    (batches / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=rf"data_batch_1 must be .*10,000 x 3,072.*got {got}"):
        data.cifar10().load(batches.parents[1])


def test_a_missing_batch_and_batches_of_another_size_are_refused(batches):
    small = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 2)
    for name in PARTS[:-1]:
        (batches / name).write_bytes(small)
    with pytest.raises(InputError, match=r"test_batch must be .*no such file"):
        data.cifar10().load(batches.parents[1])
    (batches / "test_batch").write_bytes(small)
    with pytest.raises(InputError, match=r"50000 images of 32x32x3.*shape \(5, 3, 32, 32\)"):
        data.cifar10().load(batches.parents[1])
