"""The published files, and what happens when they are not what their publisher ships."""

import functools
import gc
import gzip
import io
import json
import os
import pickle
import runpy
import shutil
import sys
from dataclasses import replace

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import entropy

from fedsim import data
from fedsim.core.cache import cache_folder, cached
from fedsim.core.dataset import Dataset, Examples, Scale
from fedsim.core.errors import InputError
from fedsim.data.files import _decode
from fedsim.data.idx import read_idx

SOURCES = {
    "fashion_mnist": data.fashion_mnist(),
    "cifar10": data.cifar10(),
    "femnist": data.femnist(),
    "retinamnist": data.medmnist("retinamnist"),
    "breastmnist": data.medmnist("breastmnist"),
}


@functools.cache
def published(name, data_dir):
    return SOURCES[name].load(data_dir)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


# --- every source --------------------------------------------------------------------------------


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


# --- idx -----------------------------------------------------------------------------------------


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


# --- parquet -------------------------------------------------------------------------------------


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


# --- CIFAR-10's pickles --------------------------------------------------------------------------

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


# --- MedMNIST ------------------------------------------------------------------------------------


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


# --- the hub -------------------------------------------------------------------------------------


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


# --- synthetic(alpha, beta) ----------------------------------------------------------------------


def synthetic(alpha=1.0, beta=1.0, population=40, **more):
    return data.synthetic(alpha=alpha, beta=beta, population=population, largest=200, **more)


def test_every_synthetic_client_has_train_and_test_examples_ten_to_one():
    dataset = synthetic().load(None)
    owners, train = np.unique(dataset.train_owners, return_counts=True)
    assert owners.tolist() == [f"{k:06d}" for k in range(40)]
    assert np.unique(dataset.test_owners).tolist() == owners.tolist()
    test = np.unique(dataset.test_owners, return_counts=True)[1]
    assert np.array_equal(test, (train + test) // 10)
    assert (train + test).min() >= 50
    assert (train + test).max() == 200  # 2.3 percent of lognormal(4, 2) is above e^8: some are cut


def test_synthetic_data_depend_on_the_seed_alone_and_do_not_change_as_the_population_grows():
    few, many = synthetic(population=5).load(None), synthetic(population=8).load(None)
    assert few.fingerprint() == synthetic(population=5).load(None).fingerprint()
    assert torch.equal(few.train.x, many.train.x[: len(few.train.y)])
    assert torch.equal(few.train.y, many.train.y[: len(few.train.y)])
    assert few.fingerprint() != synthetic(population=5, seed=1).load(None).fingerprint()


def mean_of_inputs(dataset):
    owner = torch.from_numpy(np.unique(dataset.train_owners, return_inverse=True)[1])
    sums = torch.zeros(int(owner.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, owner, dataset.train.x.double().mean(1))
    return sums / torch.bincount(owner)


def test_beta_is_the_spread_of_the_clients_inputs():
    spreads = [
        mean_of_inputs(synthetic(beta=beta, population=300).load(None)).std().item()
        for beta in (0.0, 1.0, 3.0)
    ]
    # v_k's mean over 60 inputs has variance beta^2 + 1/60; a sample std of 300 errs by 1/sqrt(600).
    expected = np.sqrt(np.array([0.0, 1.0, 9.0]) + 1 / 60)
    assert spreads == pytest.approx(expected, rel=5 / np.sqrt(600))


def test_the_larger_alpha_and_beta_the_less_alike_are_the_clients_labels():
    def entropies(size):
        """The mean entropy of a client's labels, and the entropy of all labels."""
        dataset = synthetic(size, size, population=300).load(None)
        client = np.unique(dataset.train_owners, return_inverse=True)[1]
        counts = np.zeros((300, 10))
        np.add.at(counts, (client, dataset.train.y.numpy()), 1)
        return entropy(counts, axis=1).mean(), entropy(counts.sum(0))

    (zero, everyone), (one, _), (three, _) = map(entropies, (0.0, 1.0, 3.0))
    assert everyone > np.log(10) - 0.1  # all ten classes are there, nearly equally often
    assert everyone / 2 > zero > one > three  # even with zero, W_k is a client's own


def test_alpha_moves_no_label_because_it_shifts_the_logits_of_all_classes_alike():
    # W_k = u_k + noise in every entry, so logits = u_k (1 + sum x) + noise: argmax ignores u_k.
    same, other = synthetic(alpha=0).load(None), synthetic(alpha=1).load(None)
    assert torch.equal(same.train.x, other.train.x)
    assert torch.equal(same.train.y, other.train.y)


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"beta": float("nan")}, {"population": 0}], ids=str
)
def test_synthetic_refuses_values_out_of_range(wrong):
    with pytest.raises(InputError, match=f"synthetic: {next(iter(wrong))} must be"):
        synthetic(**wrong)


# --- fingerprints and the cache ------------------------------------------------------------------


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


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Calls `cached` and counts how often it had to build; `stored.path()` is its one file."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))

    class Stored:
        built = 0

        def build(self):
            self.built += 1
            return {"a": np.arange(5), "b": np.array(["x", "yz"])}

        def __call__(self, key="key"):
            return cached("test", key, self.build)

        def path(self):
            (path,) = cache_folder().iterdir()  # nothing else is left behind
            return path

    return Stored()


def test_the_cache_gives_what_was_built_and_builds_once_a_key(stored):
    first, second = stored(), stored()
    assert stored.built == 1
    assert {name: array.tolist() for name, array in second.items()} == {
        "a": [0, 1, 2, 3, 4],
        "b": ["x", "yz"],
    }
    assert {k: v.dtype for k, v in first.items()} == {k: v.dtype for k, v in second.items()}
    stored("another key")
    assert stored.built == 2


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def said_to_be_encrypted(content):
    """The npz with the flag "encrypted" set for its first array: one bit of its directory."""
    place = content.index(b"PK\1\2") + 8
    return content[:place] + bytes((content[place] | 1,)) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not an npz",
        lambda content: content.replace(np.arange(5).tobytes(), np.arange(1, 6).tobytes()),
        pytest.param(lambda content: content[:-30]),
        pytest.param(lambda content: npy(np.arange(3))),
        pytest.param(said_to_be_encrypted),
    ],
    ids=["empty", "no npz", "bad checksum", "cut short", "an npy", "encrypted"],
)
def test_a_damaged_cache_file_is_rebuilt_and_replaced(stored, damage):
    stored()
    content = stored.path().read_bytes()
    stored.path().write_bytes(damage(content))
    assert stored()["a"].tolist() == [0, 1, 2, 3, 4]
    assert stored.built == 2
    stored()
    assert stored.built == 2
    gc.collect()  # a file left open would warn here, and warnings are errors
