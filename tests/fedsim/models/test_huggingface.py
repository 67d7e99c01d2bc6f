"""Models and tokenizers of `transformers`, which is an extra: a stand-in takes its place."""

import sys
import types

import pytest
import torch
from torch import nn

from fedsim.core.batch import Batch
from fedsim.core.errors import InputError
from fedsim.models.huggingface import huggingface_model, huggingface_tokenizer
from fedsim.models.lora import adapt, adapters
from fedsim.models.tasks import classification
from fedsim.training.oracle import PlainOracle
from scenarios import text_lora


class Published(nn.Module):
    """The form of a classifier of `transformers`."""

    def __init__(self, num_labels):
        super().__init__()
        self.config = types.SimpleNamespace(pad_token_id=1)
        self.words = nn.Embedding(50, 8)
        self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(8, num_labels)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids) * attention_mask.unsqueeze(-1)
        x = self.dropout(self.value(x) * self.query(x).sigmoid()).sum(1)
        return types.SimpleNamespace(logits=self.classifier(x))


class Words:
    """The form of its tokenizer."""

    pad_token_id = 1

    def __len__(self):
        return 50

    def __call__(self, texts, *, padding, truncation, max_length):
        assert (padding, truncation) == ("max_length", True)
        return {"input_ids": [[0, *[7] * (max_length - 2), 1] for _ in texts]}


@pytest.fixture
def transformers(monkeypatch):
    """A stand-in for the library, which is an extra."""

    def fetch(name, num_labels, attn_implementation):
        if name != "there":
            raise OSError(f"{name} is not a local folder\nand more")
        return Published(num_labels)

    module = types.ModuleType("transformers")
    module.AutoModelForSequenceClassification = types.SimpleNamespace(from_pretrained=fetch)
    module.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda name: Words())
    monkeypatch.setitem(sys.modules, "transformers", module)


def test_a_model_of_transformers_takes_the_same_adapters(transformers):
    task = classification(
        "published", lambda: adapt(huggingface_model("there", 3), "query|value", rank=2, alpha=2.0)
    )
    params = task.init(1)
    assert adapters(params) == ["model.query", "model.value"]
    tokens = torch.tensor([[5, 6, 1], [7, 8, 9]])
    batch = Batch(tokens, torch.tensor([0, 2]), torch.ones(2), torch.tensor(3))
    gradient = PlainOracle(task).gradient(params, batch)
    assert gradient["model.value.lora_b.weight"].any()
    other = tokens.clone()
    other[0, 2] = 1  # padding, as it was: the mask is made from the model's own padding token
    assert torch.equal(task.predict(params, tokens), task.predict(params, other))


def test_a_tokenizer_of_transformers_gives_its_own_tokens_and_padding(transformers):
    made = huggingface_tokenizer("there", 4)
    assert made.read(["a", "b"]).tolist() == [[0, 7, 7, 1]] * 2
    assert (made.vocabulary, made.padding, made.length) == (50, 1, 4)


def test_a_model_that_cannot_be_reached_is_named(transformers):
    with pytest.raises(InputError, match=r"got 'gone' \(gone is not a local folder\)"):
        huggingface_model("gone", 2)


@pytest.mark.parametrize(
    "call", [lambda: huggingface_model("x", 2), lambda: huggingface_tokenizer("x", 4)]
)
def test_without_transformers_the_error_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"must be installed.*pip install 'fedsim-lab\[transformers\]'"
    ):
        call()


def test_the_full_study_asks_for_transformers_and_names_its_model(transformers):
    scenario = text_lora.scenario(model="there")
    assert scenario.task.name == "there"
    assert adapters(scenario.task.init(0)) == ["model.query", "model.value"]
