"""FedDecorr: the cost of correlated features (arXiv:2210.00226, equation 7)."""

import numpy as np
import pytest
import torch

from fedsim.core.batch import Outputs
from fedsim.core.errors import InputError
from strategies import fedavg, feddecorr
from strategies.step_rules import sgd
from tests.strategies.test_strategies import assert_same, run


def cost(features, mask=None, beta=1.0):
    """What the strategy's penalty says of these features, the same for each example."""
    strategy, found = feddecorr(steps=sgd(0.1), beta=beta), []

    class Ask:
        def gradient(self, params, batch, penalty=None, held=None):
            found.append(penalty)
            return params

    params = {"w": torch.zeros(1)}
    model = strategy.broadcast(strategy.init(params), 1)
    local = strategy.local_init(model, strategy.client_init(params))
    strategy.local_step(local, None, Ask(), model, None)
    mask = torch.ones(len(features)) if mask is None else torch.tensor(mask)
    values = found[0].of(Outputs(features, features), mask)
    assert len(set(values.tolist())) == 1
    return float(values[0])


def draws(b, f, seed=0):
    return torch.randn(b, f, generator=torch.Generator().manual_seed(seed))


def test_feddecorr_with_beta_zero_equals_fedavg():
    _, ours = run(strategy=feddecorr(steps=sgd(0.1), beta=0.0))
    _, average = run(strategy=fedavg(steps=sgd(0.1)))
    assert_same(ours, average, 1e-7)


def test_it_is_the_squared_norm_of_the_correlation_matrix():
    features = draws(9, 4)
    expected = np.square(np.corrcoef(features.numpy().T)).sum() / 4**2
    assert cost(features, beta=0.3) == pytest.approx(0.3 * expected, rel=1e-5)


def test_uncorrelated_features_cost_beta_over_f_and_equal_ones_cost_beta():
    orthogonal = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert cost(orthogonal) == pytest.approx(1 / 3, rel=1e-5)
    assert cost(draws(5, 1).repeat(1, 3)) == pytest.approx(1.0, rel=1e-5)


def test_padded_rows_do_not_count():
    features = draws(6, 3)
    padded = torch.cat([features, 1e3 * draws(2, 3, seed=1)])
    assert cost(padded, [1.0] * 6 + [0.0] * 2) == pytest.approx(cost(features), rel=1e-5)


def test_a_batch_of_one_and_features_that_do_not_vary_cost_no_more_than_they_should():
    assert cost(draws(1, 3)) == 0.0
    # two uncorrelated features and one that is constant, whose correlations count as zero
    constant = torch.tensor([[1.0, 1, 7], [1, -1, 7], [-1, 1, 7], [-1, -1, 7]])
    assert cost(constant) == pytest.approx(2 / 9, rel=1e-5)


def test_feddecorr_refuses_a_negative_beta():
    with pytest.raises(InputError, match="feddecorr: beta must be >= 0"):
        feddecorr(steps=sgd(0.1), beta=-1.0)
