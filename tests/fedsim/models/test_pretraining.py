"""A base that is trained before a run."""

import pytest
import torch

from fedsim.core.errors import InputError
from fedsim.models.pretraining import pretrain
from tests.helpers.texts import sentences, small


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
