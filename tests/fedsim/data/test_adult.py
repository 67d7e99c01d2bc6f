"""UCI Adult: the published file, and what happens when it is not what its publisher ships."""

import shutil

import numpy as np
import pytest
import torch

from fedsim.core.errors import InputError
from fedsim.data import adult
from fedsim.data.adult import COLUMNS, read_table

LINE = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, "
    "Male, 2174, 0, 40, United-States, <=50K"
)


def test_adult_is_complete_with_the_published_shares_of_the_classes(real_data):
    dataset = adult().load(real_data)
    assert dataset.train.x.shape == (32_561, 108)  # 6 numbers; 9 + 16 + 7 + 15 + 6 + 5 + 2 + 42
    assert dataset.test.x.shape == (16_281, 108)
    # adult.names: 24.78 % of the records without unknown values earn more; here all are counted
    known = (read_table(real_data / "adult/adult.data") != "?").all(axis=1)
    other = (read_table(real_data / "adult/adult.test") != "?").all(axis=1)
    answers = torch.cat([dataset.train.y[torch.from_numpy(known)], dataset.test.y[other]])
    assert len(answers) == 45_222  # adult.names, too
    assert float(answers.float().mean()) == pytest.approx(0.2478, abs=5e-5)


def test_numbers_are_standardised_and_each_category_is_one_column_of_ones(real_data):
    dataset = adult().load(real_data)
    x = dataset.train.x.numpy()
    binary = np.isin(x, (0, 1)).all(axis=0)
    assert binary.sum() == 102
    numbers = x[:, ~binary]
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(numbers.std(axis=0), 1, atol=1e-4)
    assert (x[:, binary].sum(axis=1) == 8).all()  # eight categories
    assert (dataset.test.x.numpy()[:, binary].sum(axis=1) == 8).all()  # and none new in the tests


def test_persons_belong_to_their_kind_of_employer(real_data):
    dataset = adult().load(real_data)
    names, counts = np.unique(dataset.train_owners, return_counts=True)
    largest = dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert len(names) == 9
    assert largest["Private"] == 22_696
    assert (counts >= 960).sum() == 7
    assert len(dataset.test_owners) == 16_281


def test_a_line_is_read_as_written(tmp_path):
    (tmp_path / "some").write_text(f"|1x3 Cross validator\n{LINE}.\n\n{LINE}\n")
    table = read_table(tmp_path / "some")
    assert table.shape == (2, 15)
    assert table[0].tolist() == table[1].tolist() == LINE.split(", ")
    assert dict(zip(COLUMNS, table[0], strict=False))["occupation"] == "Adm-clerical"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("", "got no such line"),
        (f"{LINE}\n{LINE[:60]}\n", "in line 2"),
        (LINE.replace("<=50K", "50K"), "in line 1"),
        (LINE.replace("39", "old"), "in line 1"),
        (LINE.replace(", ", ","), "in line 1"),
    ],
    ids=["empty", "cut short", "answer", "number", "separator"],
)
def test_a_corrupt_line_is_named_with_what_was_expected(tmp_path, content, got):
    folder = tmp_path / "adult"
    folder.mkdir()
    for part in ("adult.data", "adult.test"):
        (folder / part).write_text(content)
    with pytest.raises(
        InputError, match=r"adult\.data must be a text file of 14 attributes"
    ) as said:
        adult().load(tmp_path)
    assert got in str(said.value)


def test_a_missing_file_is_named(tmp_path, real_data):
    (tmp_path / "adult").mkdir()
    shutil.copy(real_data / "adult/adult.data", tmp_path / "adult")
    with pytest.raises(InputError, match=r"adult.test must be .*; got no such file"):
        adult().load(tmp_path)
    with pytest.raises(InputError, match="adult: --data-dir must be given; got none"):
        adult().load(None)
