"""Texts: tokens, the published files, the encoder, a base trained on the public half."""

import json
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from fedsim.cli import main
from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.data import ag_news, sst2
from fedsim.data.text import hashed_words
from fedsim.models.pretraining import pretrain
from fedsim.models.transformer import Attention, encoder
from fedsim.runs.folder import read_metrics
from fedsim.server.setup import prepare
from scenarios import text_lora

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


# --- the encoder ---------------------------------------------------------------------------------


def small(num_classes=3, length=6):
    return encoder(vocabulary=30, num_classes=num_classes, length=length, width=8, heads=2)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model, texts = small().double(), torch.randint(1, 30, (4, 3))
    padded = torch.cat([texts, torch.zeros(4, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded), model(texts))


def test_the_order_of_words_matters():
    model, text = small(), torch.tensor([[1, 2, 3]])
    assert not torch.allclose(model(text), model(text.flip(1)))


def test_a_text_of_padding_alone_is_finite():
    assert torch.isfinite(small()(torch.zeros(2, 6, dtype=torch.int64))).all()


def test_attention_is_torchs():
    q, k, v = (torch.randn(2, 5, 8, dtype=torch.float64) for _ in range(3))
    tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
    seen = (tokens != 0)[:, None, None, :]
    expected = nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen)
    torch.testing.assert_close(Attention(2)(q, k, v, tokens), expected.transpose(1, 2).flatten(-2))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"encoder: heads must divide the width, 10; got 4. Use 2"):
        encoder(vocabulary=30, num_classes=2, width=10, heads=4)


# --- a base of our own ---------------------------------------------------------------------------


def sentences(calls=None):
    """Texts whose label is which of two words they have."""

    def load(data_dir):
        if calls is not None:
            calls.append(1)
        draw = np.random.default_rng(0)
        x, y = draw.integers(5, 30, (400, 6)), draw.integers(2, size=400)
        x[:, 0] = 3 + y
        x[::2, 4:] = 0
        part = Examples(torch.from_numpy(x), torch.from_numpy(y))
        return Dataset(name="sentences", train=part, test=part, num_classes=2)

    return Source(name="sentences", load=load)


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_stays(monkeypatch, tmp_path):
    def made(folder, seed=0):
        monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / folder))
        return pretrain(sentences(), lambda: small(2), batch_size=16, lr=5e-3, seed=seed)(None)

    before = torch.get_rng_state()
    first, again, other = made("a"), made("b"), made("a", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    model = small(2)
    model.load_state_dict(first)
    data = sentences().load(None).train
    assert float((model(data.x).argmax(1) == data.y).float().mean()) > 0.95


def test_a_base_is_trained_once(monkeypatch):
    read = pretrain(sentences(), lambda: small(2), batch_size=16, seed=9)
    first = read(None)
    monkeypatch.setattr(torch.optim, "Adam", None)
    assert torch.equal(read(None)["head.weight"], first["head.weight"])


@pytest.mark.parametrize("values", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}])
def test_pretraining_refuses_values_out_of_range(values):
    with pytest.raises(InputError, match="pretrain: "):
        pretrain(sentences(), small, **values)


# --- the scenario --------------------------------------------------------------------------------


@pytest.fixture
def little_texts(monkeypatch):
    """Short texts of two kinds in the place of SST-2, whose base would take half a minute."""
    made = lambda tokenizer, half: sentences()  # noqa: E731
    monkeypatch.setitem(text_lora._SOURCES, "sst2", (made, 2, 6))


def test_text_lora_runs_from_the_command_line(tmp_path, little_texts):
    command = ["run", "text_lora", "--rounds", "2", "--width", "2", "--workers", "1"]
    sizes = ["--local-steps", "2", "--batch-size", "4", "--evaluate-every", "2"]
    noise = ["--clip-norm", "1", "--noise-multiplier", "1"]
    assert main([*command, *sizes, *noise, "--out", str(tmp_path / "run")]) == 0
    floats = 2 * 2 * 64 * 8  # two layers' queries and values, p x r
    sent = [line["bytes_up"] for line in read_metrics(tmp_path / "run")]
    assert sent == [3 * floats * 4] * 2
    privacy = json.loads((tmp_path / "run/summary.json").read_text())["privacy"]
    assert privacy["unit"] == "example"
    assert privacy["epsilon"] == read_metrics(tmp_path / "run")[-1]["epsilon"] > 0.1


def test_noise_without_a_clip_norm_is_refused():
    with pytest.raises(InputError, match="must be given together; got 0 and 1"):
        text_lora.scenario(noise_multiplier=1.0)


def test_the_classifier_is_not_the_one_that_the_base_was_trained_with(little_texts):
    task = text_lora.scenario().task
    ready, data = task.prepare(None), sentences().load(None).train
    blank, based = (one.predict(one.init(1), data.x) for one in (task, ready))
    assert not torch.allclose(based, blank)
    assert float((based.argmax(1) == data.y).float().mean()) < 0.9  # the base alone: above 0.95
    assert ready.init(1).keys() == task.init(1).keys()


def test_a_run_learns_and_is_judged_on_the_base(little_texts):
    scenario = text_lora.scenario()
    prepared = prepare(scenario, Settings(width=1, workers=1, device="cpu"))
    x, params = sentences().load(None).train.x[:8], prepared.initial_params
    wanted = scenario.task.prepare(None).predict(params, x)
    for task in (prepared.scenario.task, prepared.trainer.task):
        assert torch.equal(task.predict(params, x), wanted)
