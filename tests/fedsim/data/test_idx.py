"""MNIST and Fashion-MNIST: the published files, and damaged ones."""

import gzip

import pytest
import torch

from fedsim import data
from fedsim.core.errors import InputError
from fedsim.data.idx import read_idx
from tests.helpers.published import published


def test_fashion_mnist_is_complete_with_as_many_examples_of_each_class(real_data):
    dataset = published("fashion_mnist", real_data)
    assert dataset.train.x.shape == (60_000, 1, 28, 28)
    assert dataset.test.x.shape == (10_000, 1, 28, 28)
    assert dataset.train.x.dtype == torch.uint8
    assert torch.bincount(dataset.train.y).tolist() == [6_000] * 10
    assert torch.bincount(dataset.test.y).tolist() == [1_000] * 10


def test_a_missing_idx_file_is_named_in_the_error(tmp_path):
    (tmp_path / "fashion_mnist").mkdir()
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz must be .*no such file"):
        data.fashion_mnist().load(tmp_path)


IDX = bytes((0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3)) + bytes(range(6))  # 2 x 3, as the format says


def test_an_idx_file_is_read_in_c_order(tmp_path):
    path = tmp_path / "good.gz"
    path.write_bytes(gzip.compress(IDX))
    assert read_idx("test", path, (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (gzip.compress(IDX)[:-9], "broken gzip"),
        (b"<html>not found</html>", "broken gzip"),
        (gzip.compress(b"\0\0\x0d" + IDX[3:]), "a header that starts 00 00 0d 02"),  # floats
        (gzip.compress(IDX[:6]), "a header that starts 00 00 08 02"),
        (gzip.compress(IDX[:7] + b"\3" + IDX[8:]), r"shape \(3, 3\) and 6 bytes"),
        (gzip.compress(IDX[:-1]), r"shape \(2, 3\) and 5 bytes"),
    ],
    ids=["cut short", "no gzip", "of floats", "no header", "of another shape", "too few bytes"],
)
def test_a_corrupt_idx_file_is_named_with_what_was_expected_and_found(tmp_path, content, got):
    path = tmp_path / "bad.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.gz must be .*shape \(2, 3\); got {got}"):
        read_idx("test", path, (2, 3))
