"""Texts: tokens, and the published files of SST-2 and AG News."""

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fedsim.core.errors import InputError
from fedsim.data import ag_news, sst2
from fedsim.data.text import hashed_words

# --- tokens --------------------------------------------------------------------------------------


def test_words_and_punctuation_are_hashed_in_lower_case_and_the_rest_is_padding():
    ids = hashed_words(length=6, buckets=1000).read(["It's GOOD .", "good", ""])
    number = {w: 1 + zlib.crc32(w.encode()) % 999 for w in ("it", "'", "s", "good", ".", "")}
    assert ids[0].tolist() == [number[w] for w in ("it", "'", "s", "good", ".")] + [0]
    assert ids[1].tolist() == [number["good"]] + [0] * 5
    assert ids[2].tolist() == [number[""]] + [0] * 5  # no text is padding alone


def test_a_long_text_is_cut():
    ids = hashed_words(length=3, buckets=50).read(["a b c d e f"])
    assert ids.shape == (1, 3)
    assert ((ids > 0) & (ids < 50)).all()


@pytest.mark.parametrize(("length", "buckets"), [(0, 100), (8, 1)])
def test_hashed_words_refuses_sizes_that_are_too_small(length, buckets):
    with pytest.raises(InputError, match="hashed_words: "):
        hashed_words(length=length, buckets=buckets)


# --- the published files -------------------------------------------------------------------------


def test_sst2_as_published(real_data):
    dataset = sst2().load(real_data)
    assert dataset.train.y.bincount().tolist() == [29_780, 37_569]
    assert dataset.test.y.bincount().tolist() == [428, 444]
    assert dataset.train.x.shape == (67_349, 32)
    first = hashed_words().read(["hide new secretions from the parental units "])
    assert dataset.train.x[0].tolist() == first[0].tolist()
    assert dataset.train.x.dtype == torch.int64
    assert dataset.ready(dataset.train.x[:2]) is not None
    assert torch.equal(dataset.ready(dataset.train.x[:2]), dataset.train.x[:2])


def test_ag_news_as_published(real_data):
    dataset = ag_news().load(real_data)
    assert dataset.train.y.bincount().tolist() == [1204, 1240, 1291, 1265]
    assert dataset.test.y.bincount().tolist() == [1900] * 4
    assert dataset.train.x.shape == (5_000, 64)


def test_the_halves_are_fixed_and_share_no_row(real_data):
    whole, public, private = (sst2(half=h).load(real_data) for h in ("all", "public", "private"))
    assert len(public.train.y) + len(private.train.y) == len(whole.train.y)
    rows = torch.cat([public.train.x, private.train.x]), whole.train.x
    first, second = (np.sort(part.numpy() @ np.arange(1, 33)) for part in rows)
    assert np.array_equal(first, second)
    assert torch.equal(public.test.x, private.test.x)
    assert public.fingerprint() == sst2(half="public").load(real_data).fingerprint()
    assert public.name == "sst2, public half"


def test_an_unknown_half_is_refused():
    with pytest.raises(InputError, match="sst2: half must be a known name"):
        sst2(half="publik")


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def little_news(folder, **changes):
    """AG News in form, with 48 texts to train on."""
    words = ["world war", "goal match", "profit bank", "chip web"]
    for part, n in (("train", 48), ("test", 7_600)):
        y = [i % 4 for i in range(n)]
        columns = {"text": [f"{words[k]} number {i}" for i, k in enumerate(y)], "label": y}
        if part == "train":
            columns |= changes
        write(folder / "ag_news" / f"{part}-00000-of-00001.parquet", **columns)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [4] * 48}, "labels from 0 to 3; got a row without one"),
        ({"text": [None] * 48}, "labels from 0 to 3; got a row without one"),
        ({"text": [], "label": []}, r"some texts .* got 0 rows"),
    ],
)
def test_files_that_are_not_as_published_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ag_news().load(little_news(tmp_path, **changes))


def test_missing_files_and_rows_are_named(tmp_path):
    with pytest.raises(InputError, match="sst2: --data-dir must be given"):
        sst2().load(None)
    (tmp_path / "sst2").mkdir()
    with pytest.raises(InputError, match=r"train-\*\.parquet must be the hub's parquet file"):
        sst2().load(tmp_path)
    for part in ("train", "validation"):
        write(tmp_path / "sst2" / f"{part}-0.parquet", sentence=["fine"], label=[1])
    with pytest.raises(InputError, match="67349 texts with labels from 0 to 1; got 1 rows"):
        sst2().load(tmp_path)
