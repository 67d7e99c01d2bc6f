"""The small text encoder."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import InputError
from fedsim.models.transformer import Attention, encoder
from tests.helpers.texts import small


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
