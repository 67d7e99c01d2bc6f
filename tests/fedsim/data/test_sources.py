"""What all datasets have in common: where their files are, and the scale of images."""

import pytest
import torch

from fedsim.core.dataset import Scale
from fedsim.core.errors import InputError
from tests.helpers.published import SOURCES, published


@pytest.mark.parametrize("name", SOURCES)
def test_without_a_data_folder_the_error_names_the_option_and_the_folder(name, tmp_path):
    folder = "medmnist" if name in ("retinamnist", "breastmnist") else name
    with pytest.raises(InputError, match=rf"--data-dir must be given.*FEDSIM_DATA.*{folder}/"):
        SOURCES[name].load(None)
    with pytest.raises(InputError, match=rf"must be a folder that holds {folder}/; got .*{folder}"):
        SOURCES[name].load(tmp_path)


# Constants of complete sets are given to 4 digits: an error of 0.00005 over a std of 0.25.
# FEMNIST's are those in common use for all its writers; the published files here hold 105 of them.
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("fashion_mnist", 0.0005),
        ("femnist", 0.05),
        pytest.param("cifar10", 0.0005, marks=pytest.mark.slow),
    ],
)
def test_scaled_training_images_have_mean_0_and_std_1_in_each_channel(name, tolerance, real_data):
    dataset = published(name, real_data)
    total, squares, count = 0, 0, 0
    for part in dataset.train.x.split(5000):
        scaled = dataset.scale(part).double()
        total += scaled.sum((0, 2, 3))
        squares += scaled.square().sum((0, 2, 3))
        count += scaled[:, 0].numel()
    mean = total / count
    std = (squares / count - mean.square()).sqrt()
    assert mean.abs().max() < tolerance
    assert (std - 1).abs().max() < tolerance


def test_scale_uses_each_channels_own_constants_and_leaves_the_bytes_alone():
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    before = x.clone()
    scaled = Scale(mean=(0.0, 0.2, 0.5), std=(1.0, 0.5, 0.25))(x)
    # (0 / 255 - 0) / 1, (51 / 255 - 0.2) / 0.5, (255 / 255 - 0.5) / 0.25
    torch.testing.assert_close(scaled.flatten(), torch.tensor([0.0, 0.0, 2.0]))
    assert torch.equal(x, before)
