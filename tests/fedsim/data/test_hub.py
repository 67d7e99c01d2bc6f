"""Datasets of the Hugging Face hub, from local copies."""

import sys

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch

from fedsim import data
from fedsim.core.errors import InputError


@pytest.fixture
def hub_copy(tmp_path, monkeypatch):
    """A function that writes the same table as train and test of a local copy."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "copy"
    folder.mkdir()

    def write(columns, features=None, parts=("train", "test")):
        features = features and datasets.Features(features)
        table = datasets.Dataset.from_dict(columns, features=features)
        for part in parts:
            table.to_parquet(folder / f"{part}-00000-of-00001.parquet")
        return str(folder)

    return write


def test_hub_reads_images_and_class_labels_found_by_their_type(hub_copy):
    pixels = np.random.default_rng(0).integers(256, size=(4, 5, 6, 3), dtype=np.uint8)
    kinds = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    name = hub_copy({"picture": list(pixels), "kind": [1, 0, 0, 1]}, kinds)
    dataset = data.hub(name).load(None)
    for part in (dataset.train, dataset.test):
        assert torch.equal(part.x, torch.from_numpy(pixels).permute(0, 3, 1, 2))
        assert part.y.tolist() == [1, 0, 0, 1]
    assert dataset.num_classes == 2
    assert dataset.scale is not None
    assert dataset.train_owners is None


def test_hub_reads_vectors_and_their_owners(hub_copy):
    columns = {"v": [[1.0, 2.0], [3.0, 4.0]], "target": [0, 2], "device": [10, 9]}
    dataset = data.hub(hub_copy(columns), label="target", owner="device").load(None)
    assert dataset.train.x.tolist() == columns["v"]
    assert dataset.train.y.tolist() == [0, 2]
    assert dataset.num_classes == 3
    assert dataset.scale is None
    assert dataset.train_owners.tolist() == dataset.test_owners.tolist() == ["10", "9"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"v": [[1.0]], "label": [0]}, {"test": "validation"}, "split 'validation'; got train, te"),
        (
            {"v": [[1.0]], "label": [0]},
            {"inputs": "image"},
            "column 'image'; got v, label.*inputs=",
        ),
        ({"v": [[1.0]], "label": [0]}, {"owner": "who"}, "column 'who'; got v, label.*owner="),
        ({"v": [[1.0]], "class": [0]}, {}, "column 'label'; got v, class.*label="),
        ({"v": [1.0], "label": [0]}, {}, "column of images or vectors; got v, label.*inputs="),
        ({"v": [[1.0], [1.0, 2.0]], "label": [0, 1]}, {}, "one size"),
        ({"v": [[1.0]], "label": ["cat"]}, {}, "label"),
    ],
    ids=["split", "inputs", "owner", "label", "no inputs", "unlike sizes", "text labels"],
)
def test_hub_says_what_a_dataset_lacks_and_which_option_names_it(
    hub_copy, columns, options, message
):
    source = data.hub(hub_copy(columns), **options)
    with pytest.raises(InputError, match=message):
        source.load(None)


def test_without_datasets_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"must be installed.*pip install 'fedsim-lab\[hub\]'"):
        data.hub("ylecun/mnist").load(None)


def test_a_hub_dataset_out_of_reach_is_an_input_error_with_a_remedy(hub_copy, tmp_path):
    for name in ("nobody/nothing", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=rf"got '{name}'.*give the path of a local copy"):
            data.hub(name).load(None)
