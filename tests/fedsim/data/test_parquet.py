"""CIFAR-10 and FEMNIST in parquet files, FEMNIST in JSON: the published files, and damaged ones."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fedsim import data
from fedsim.core.errors import InputError
from fedsim.data.files import _decode
from tests.helpers.published import png, published, write_parquet


@pytest.mark.slow
def test_cifar10_is_complete_and_in_the_order_of_its_parquet_files(real_data):
    dataset = published("cifar10", real_data)
    assert dataset.train.x.shape == (50_000, 3, 32, 32)
    assert dataset.test.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(dataset.train.y).tolist() == [5_000] * 10
    assert torch.bincount(dataset.test.y).tolist() == [1_000] * 10
    fourth = real_data / "cifar10" / "train-00003-of-00005.parquet"
    row = pq.read_table(fourth, columns=["img", "label"]).slice(7, 1).to_pylist()[0]
    image = np.array(Image.open(io.BytesIO(row["img"]["bytes"])))  # [height, width, channel]
    x, y = dataset.train.x[30_007], dataset.train.y[30_007]
    assert torch.equal(x.permute(1, 2, 0), torch.from_numpy(image))
    assert y == row["label"]


def test_femnist_has_105_writers_with_train_and_test_examples_of_their_own(real_data):
    dataset = published("femnist", real_data)
    assert dataset.train.x.shape == (14_708, 1, 28, 28)
    assert dataset.test.x.shape == (1_685, 1, 28, 28)
    assert len(dataset.train_owners) == 14_708
    assert len(dataset.test_owners) == 1_685
    assert len(np.unique(dataset.train_owners)) == 105
    assert set(dataset.train_owners) == set(dataset.test_owners)
    assert dataset.train.y.unique().tolist() == list(range(62))


def test_leafs_json_agrees_pixel_for_pixel_with_the_parquet_files(real_data, tmp_path):
    (tmp_path / "femnist").mkdir()
    (tmp_path / "femnist" / "leaf_json").symlink_to(real_data / "femnist" / "leaf_json")
    leaf, parquet = data.femnist().load(tmp_path), published("femnist", real_data)
    for part in ("train", "test"):
        mine, theirs = getattr(leaf, part), getattr(parquet, part)
        my_owners, their_owners = (getattr(d, f"{part}_owners") for d in (leaf, parquet))
        assert len(np.unique(my_owners)) == 5
        for writer in np.unique(my_owners):
            here, there = (torch.from_numpy(o == writer) for o in (my_owners, their_owners))
            assert torch.equal(mine.x[here], theirs.x[there])
            assert torch.equal(mine.y[here], theirs.y[there])


def leaf_shard(folder, part, content):
    shard = folder / "femnist" / part / "all_data_0.json"
    shard.parent.mkdir(parents=True)
    shard.write_text(content)


def test_leafs_floats_are_rounded_to_the_nearest_byte(tmp_path):
    pixels = [place % 256 for place in range(28 * 28)]
    one = {"x": [[round(pixel / 255, 9) for pixel in pixels]], "y": [7]}
    for part in ("train", "test"):
        leaf_shard(tmp_path, part, json.dumps({"users": ["w"], "user_data": {"w": one}}))
    train = data.femnist().load(tmp_path).train
    assert train.x.flatten().tolist() == pixels
    assert train.y.tolist() == [7]


@pytest.mark.parametrize(
    ("content", "got"),
    [('{"users": ["w"', "JSONDecodeError"), ('{"users": ["w"], "user_data": {}}', "KeyError: 'w'")],
)
def test_a_corrupt_leaf_shard_is_named_with_what_was_expected_and_found(tmp_path, content, got):
    leaf_shard(tmp_path, "train", content)
    with pytest.raises(InputError, match=rf"all_data_0\.json must be a LEAF shard.*got {got}"):
        data.femnist().load(tmp_path)


def femnist_parquet(folder, part="train-0", images=(png(np.zeros((28, 28))),), **changes):
    columns = {
        "image": [{"bytes": content, "path": None} for content in images],
        "writer_id": ["w"] * len(images),
        "character": [0] * len(images),
    }
    columns = {name: value for name, value in (columns | changes).items() if value is not None}
    write_parquet(folder / "femnist" / f"{part}.parquet", **columns)


def test_a_parquet_file_without_the_columns_is_named_with_those_it_needs(tmp_path):
    femnist_parquet(tmp_path, writer_id=None)
    femnist_parquet(tmp_path, "test-0")
    with pytest.raises(
        InputError,
        match=r"train-0\.parquet must be .* image, writer_id, character; got .*writer_id",
    ):
        data.femnist().load(tmp_path)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    femnist_parquet(tmp_path)
    (tmp_path / "femnist" / "test-0.parquet").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"test-0\.parquet must be a parquet file"):
        data.femnist().load(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_parquet_part_is_named(tmp_path, part):
    (tmp_path / "cifar10").mkdir()
    femnist_parquet(tmp_path, "train-0" if part == "test" else "other")
    with pytest.raises(InputError, match=rf"{part}.*no such file"):
        data.femnist().load(tmp_path)
    with pytest.raises(InputError, match=r"train-\*\.parquet must be .*no such file"):
        data.cifar10().load(tmp_path)


def test_an_image_that_cannot_be_decoded_is_named_by_file_and_row(tmp_path):
    good = png(np.zeros((28, 28)))
    femnist_parquet(tmp_path, images=[good, good[:-20]])
    femnist_parquet(tmp_path, "test-0")
    with pytest.raises(InputError, match=r"train-0\.parquet must be .*no image in row 1"):
        data.femnist().load(tmp_path)


def test_a_bad_image_in_a_second_file_is_blamed_on_that_file(tmp_path):
    femnist_parquet(tmp_path, "train-0")
    femnist_parquet(tmp_path, "train-1", images=[b"no image"])
    femnist_parquet(tmp_path, "test-0")
    with pytest.raises(InputError, match=r"train-1\.parquet"):
        data.femnist().load(tmp_path)


def test_images_of_unlike_sizes_in_one_table_are_refused(tmp_path):
    images = [png(np.zeros((28, 28))), png(np.zeros((28, 27)))]
    with pytest.raises(InputError, match=r"x\.parquet must be .*\(28, 28\); got \(28, 27\) in 1"):
        _decode("test", tmp_path / "x.parquet", images)
