"""MedMNIST: the published files, and damaged ones."""

import gc
import io

import numpy as np
import pytest

from fedsim import data
from fedsim.core.errors import InputError
from tests.helpers.published import published


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("retinamnist", (1_080, 3, 28, 28), (400, 3, 28, 28), 5),
        ("breastmnist", (546, 1, 28, 28), (156, 1, 28, 28), 2),
    ],
)
def test_medmnist_has_the_published_shapes_without_validation_images(
    name, train, test, classes, real_data
):
    dataset = published(name, real_data)
    assert (dataset.train.x.shape, dataset.test.x.shape) == (train, test)
    assert dataset.num_classes == classes
    assert dataset.train.y.unique().tolist() == list(range(classes))
    with np.load(real_data / "medmnist" / f"{name}.npz") as arrays:
        last = arrays["train_images"][-1]  # [height, width(, channel)]
    assert np.array_equal(np.moveaxis(dataset.train.x[-1].numpy(), 0, -1).squeeze(), last)


def test_an_unknown_medmnist_name_suggests_the_nearest():
    with pytest.raises(InputError, match=r"got 'retinamist'\. Did you mean retinamnist"):
        data.medmnist("retinamist")


def npz(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


TINY_NPZ = npz(
    train_images=np.arange(12, dtype=np.uint8).reshape(3, 2, 2), train_labels=np.zeros((3, 1))
)


def with_a_bad_block(content):
    """The npz with the first byte of its compressed data made an unknown kind of block."""
    start = 30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")
    return content[:start] + b"\xff" + content[start + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        TINY_NPZ,
        pytest.param(TINY_NPZ[:-30]),
        pytest.param(with_a_bad_block(TINY_NPZ)),
    ],
    ids=["empty", "no npz", "without test arrays", "cut short", "bad block"],
)
def test_a_corrupt_npz_is_named_with_what_was_expected(tmp_path, content):
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist" / "breastmnist.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"breastmnist\.npz must be .*\{train,test\}_\{images,lab"):
        data.medmnist("breastmnist").load(tmp_path)
    gc.collect()  # a file left open would warn here, and warnings are errors
