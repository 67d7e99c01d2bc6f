"""Width and workers: measured once, chosen for who is done first, kept for good."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.core.dataset import Dataset, Examples, Source
from fedsim.core.settings import Settings
from fedsim.models.tasks import classification
from fedsim.server.setup import prepare
from fedsim.training import autotune
from fedsim.training.autotune import _width, _workers, choose, client_bytes
from fedsim.training.oracle import PLAIN
from strategies import batch_plans
from tests.helpers.worlds import small_world


def chosen(prepared, **asked):
    given = {"cohort": 4, "rounds": 10, "width": None, "workers": None} | asked
    return choose(
        prepared.trainer,
        broadcast=prepared.broadcast_template,
        client=prepared.client_template,
        params=prepared.initial_params,
        **given,
    )


@pytest.fixture
def opened():
    return prepare(small_world(), Settings(width=1, workers=1))


@pytest.fixture
def race(monkeypatch, tmp_path):
    """Each width's seconds of one step of one client, as a test says; and how often it was run."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))

    def says(seconds):
        runs = []
        monkeypatch.setattr(autotune, "_race", lambda *_: runs.append(1) or dict(seconds))
        return runs

    return says


# --- which width ---------------------------------------------------------------------------------


def test_the_width_is_the_one_that_is_done_first():
    falling = {1: 1.0, 2: 0.6, 5: 0.4, 10: 0.3}
    assert _width(falling, cohort=20, workers=1) == 10
    rising = {1: 1.0, 2: 1.1, 5: 1.2}
    assert _width(rising, cohort=20, workers=1) == 1


def test_a_width_that_leaves_a_worker_idle_is_no_bargain():
    seconds = {5: 0.32, 10: 0.30, 20: 0.28}
    assert _width(seconds, cohort=20, workers=1) == 20
    # with two workers one chunk of 20 would be done by one of them alone
    assert _width(seconds, cohort=20, workers=2) == 10


def test_among_widths_that_are_nearly_as_good_the_smallest_is_taken():
    assert _width({1: 1.04, 2: 1.03, 4: 1.0}, cohort=8, workers=1) == 1


# --- how many workers ----------------------------------------------------------------------------


def test_workers_are_started_only_where_they_save_more_than_it_takes(opened, monkeypatch):
    monkeypatch.setattr(autotune, "count_cores", lambda: 4)
    assert _workers(opened.trainer, round_seconds=1.0, rounds=3) == 1  # saves 2.25 s
    assert _workers(opened.trainer, round_seconds=1.0, rounds=30) == 4  # saves 22.5 s
    assert _workers(opened.trainer, round_seconds=0.001, rounds=10**6) == 1  # too short to share


# --- measured once -------------------------------------------------------------------------------


def test_what_was_measured_once_is_used_from_then_on(opened, race):
    runs = race({1: 1.0, 2: 0.5, 4: 0.2})
    first = chosen(opened)
    race({1: 0.1, 2: 9.0, 4: 9.0})  # a busy day later
    assert chosen(opened) == first
    assert first.width == 4
    assert len(runs) == 1


def test_another_model_batch_or_oracle_is_measured_anew(opened, race):
    race({1: 1.0, 4: 0.2})
    assert chosen(opened).width == 4
    runs = race({1: 0.1, 4: 9.0})
    trainer = replace(opened.trainer, oracles=replace(PLAIN, name="another"))
    assert chosen(replace(opened, trainer=trainer)).width == 1
    assert len(runs) == 1


def test_what_the_user_says_is_not_measured(opened, race):
    runs = race({1: 1.0, 4: 0.2})
    assert chosen(opened, width=3, workers=2)[:2] == (3, 2)
    assert runs == []


def test_a_real_race_times_every_width_up_to_the_cohort(opened):
    found = autotune._race(
        opened.trainer,
        opened.broadcast_template,
        opened.client_template,
        opened.initial_params,
        4,
    )
    assert set(found) <= {1, 2, 3, 4}
    assert 1 in found
    assert all(seconds > 0 for seconds in found.values())


def test_a_population_without_examples_needs_no_race(opened):
    nobody = replace(
        opened.dealt,
        owned=opened.dealt.owned._replace(starts=torch.zeros_like(opened.dealt.owned.starts)),
    )
    trainer = replace(opened.trainer, population=nobody)
    assert chosen(replace(opened, trainer=trainer))[:2] == (1, 1)


# --- the memory budget ---------------------------------------------------------------------------


def test_a_clients_memory_counts_its_trees_and_what_autograd_keeps():
    inputs, hidden, batch = 50, 4000, 8

    def load(_):
        x, y = torch.zeros(40, inputs), torch.zeros(40, dtype=torch.int64)
        return Dataset(
            name="zeros",
            train=Examples(x, y),
            test=Examples(x, y),
            num_classes=2,
            train_owners=np.array(["a"] * 40),
        )

    scenario = small_world(
        sizes=(40,),
        data=Source(name="zeros", load=load),
        task=classification(
            "wide",
            lambda: nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 2)),
        ),
        plan=batch_plans.shuffled_epochs(epochs=1, batch_size=batch),
    )
    prepared = prepare(scenario, Settings(width=1, workers=1))
    parameters = 4 * ((inputs + 1) * hidden + (hidden + 1) * 2)
    activations = 4 * batch * hidden  # what tanh keeps
    said = client_bytes(prepared.trainer, prepared.initial_params)
    assert said >= 6 * parameters + 2 * activations
    assert said <= 8 * parameters + 8 * activations
