"""Pretrained language models and tokenizers of `transformers` (an extra of this package).

A name is a local folder or a model of the Hugging Face hub. The weights are read each time that a
task builds its model; frozen ones are kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.core.errors import InputError
from fedsim.data.text import Tokenizer


class Logits(nn.Module):
    """A classifier of `transformers` as a module from tokens to logits."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [b, L] -> logits [b, C]."""
        mask = (tokens != self.padding).to(torch.int64)
        logits: Tensor = self.model(input_ids=tokens, attention_mask=mask).logits
        return logits


def huggingface_model(name: str, num_classes: int) -> nn.Module:
    """A pretrained encoder with a fresh classifier on top; see `fedsim.models.lora.adapt`.

    Its code does not run under vmap: use `--width 1`.

    Raises:
        InputError: `transformers` is not installed, or there is no such model.
    """
    kind = _library("huggingface_model").AutoModelForSequenceClassification
    model = _fetched(
        "huggingface_model",
        name,
        lambda: kind.from_pretrained(name, num_labels=num_classes, attn_implementation="eager"),
    )
    return Logits(model, model.config.pad_token_id)


def huggingface_tokenizer(name: str, length: int) -> Tokenizer:
    """The tokenizer of a pretrained model; what is over `length` is cut.

    Raises:
        InputError: `transformers` is not installed, or there is no such model.
    """
    kind = _library("huggingface_tokenizer").AutoTokenizer
    made = _fetched("huggingface_tokenizer", name, lambda: kind.from_pretrained(name))

    def read(texts: Sequence[str]) -> NDArray[np.int32]:
        cut = made(list(texts), padding="max_length", truncation=True, max_length=length)
        return np.asarray(cut["input_ids"], np.int32)

    return Tokenizer(
        name=f"huggingface_tokenizer({name}, {length})",
        length=length,
        vocabulary=len(made),
        read=read,
        padding=made.pad_token_id,
    )


def _library(who: str) -> Any:
    try:
        import transformers  # an extra, and slow to import
    except ImportError as error:
        raise InputError(
            f"{who}: transformers must be installed; got no such package. "
            "Install it with pip install 'fedsim-lab[transformers]'."
        ) from error
    return transformers


def _fetched(who: str, name: str, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except Exception as error:  # the library raises many kinds, all of them "cannot be had"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{who}: name must be a model that can be reached; got {name!r} ({reason}). "
            "Without a network, give the path of a local copy."
        ) from error
