"""A mechanism in a file of its own, this one: run, accounted and audited from its run folder alone.

The library has never heard of it. It protects clients: updates are clipped and summed, the server
adds Gaussian noise and rounds the sum to a public grid, as where releases are sent in few bits.
"""

import json
import math
from dataclasses import replace

import pytest
import torch

from fedsim.cli import main
from fedsim.core.ledger import Entry, read_ledger
from fedsim.core.scenario import Mechanism
from fedsim.core.updates import Bounded, Released
from fedsim.runs.description import describe
from fedsim.runs.runner import record_run
from fedsim.testing import direct
from privacy.accounting import PoissonGaussian, account
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import SampledGaussian
from privacy.auditing.run.report import audit
from privacy.mechanisms.entry_reader import AuditModel
from privacy.mechanisms.readers import READERS
from tests.fedsim.canaries.test_canaries import clients
from tests.helpers.mechanisms import opened

CLIP_NORM, DELTA, ROUNDS, CANARIES = 0.5, 1e-5, 12, 60


def rounded_gaussian(noise_multiplier, *, grid=1e-3, share=1.0):
    """Clipped updates, Gaussian noise on their sum, rounded to a grid.

    share: of the noise that is charged for, how much is added: 1 but in a planted bug.
    """

    def bound(state, update):
        rows = torch.cat(
            [tensor.unsqueeze(-1).flatten(1) for tensor in update.diff.values()], dim=1
        )
        factors = (CLIP_NORM / rows.norm(dim=1).clamp(min=1e-12)).clamp(max=1)
        short = {
            name: tensor * factors.reshape(-1, *(1,) * (tensor.dim() - 1))
            for name, tensor in update.diff.items()
        }
        return Bounded(short, update.num_examples, l2_bound=CLIP_NORM)

    def release(state, aggregate, noise):
        stream = noise.stream(noise.round_num)
        std = share * noise_multiplier * CLIP_NORM * aggregate.l2_sensitivity
        width = grid * aggregate.l2_sensitivity

        def rounded(tensor):
            noisy = tensor + std * torch.randn(tensor.shape, generator=stream)
            return (noisy / width).round() * width

        diff = {name: rounded(tensor) for name, tensor in aggregate.diff.items()}
        return Released(diff, aggregate.share), state

    def spend(state, exposure):
        chance = exposure.scenario.cohort / exposure.scenario.population
        charged = SampledGaussian(sampling_prob=chance, noise_multiplier=noise_multiplier)
        observed = AuditModel(noise=noise_multiplier, sampling_prob=chance)
        entry = Entry(
            round=exposure.round_num,
            unit="client",
            relation="zero_out",
            mechanism="rounded_gaussian",
            sampler={"kind": "tossing coins", "heads": chance, "coin": "a silver one"},
            sensitivity=CLIP_NORM,
            noise_std=noise_multiplier * CLIP_NORM,
            noise_multiplier=noise_multiplier,
            details={
                "grid": grid,
                "release": charged.describe(),
                "audit": observed.describe(),
            },
        )
        return (entry,)

    return Mechanism(
        name=f"rounded_gaussian(z={noise_multiplier:g})",
        unit="client",
        relation="zero-out",
        noise_by="the server, once a round",
        protects_from="everyone who sees the models",
        statement=f"Clients: rounded Gaussian noise, z = {noise_multiplier:g}.",
        bound=bound,
        release=release,
        spend=spend,
        account=lambda: LedgerAccount(DELTA),
        norm=lambda state: CLIP_NORM,
        missing_counts_as_zero=True,
        canaries="clients",
    )


@pytest.fixture
def folder(tmp_path, watcher, no_pictures):
    """A function that runs a scenario with this mechanism and gives its folder."""

    def run(mechanism, name="run"):
        scenario = clients(mechanism=mechanism, canaries=CANARIES, rounds=ROUNDS)
        prepared, out = opened(scenario), tmp_path / name
        description = describe(name, {}, prepared, "cohort")
        record_run(prepared, description, direct(prepared), [watcher], out=out)
        return out

    return run


def expected_epsilon(scenario, noise_multiplier):
    event = PoissonGaussian(
        sampling_prob=scenario.cohort / scenario.population,
        noise_multiplier=noise_multiplier,
        count=ROUNDS,
    )
    return account([event], DELTA).epsilon


def test_no_reader_of_the_library_knows_it(folder):
    entries, _ = read_ledger(folder(rounded_gaussian(1.0)) / "ledger.jsonl")
    assert len(entries) == ROUNDS
    assert not any(reader.wrote(entry) for reader in READERS for entry in entries)


def test_its_epsilon_is_accounted_and_audited_from_the_folder(folder, capsys):
    mechanism = rounded_gaussian(1.0)
    out = folder(mechanism)
    epsilon = expected_epsilon(clients(mechanism=mechanism), 1.0)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["privacy"]["epsilon"] == pytest.approx(epsilon)
    assert main(["audit", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["claim"]["epsilon"] == pytest.approx(epsilon)
    assert said["verdict"].startswith("CONSISTENT")
    assert said["canaries"] == CANARIES
    found = audit(out).claimed.audit
    assert len(found.wiring) == 1
    assert found.wiring[0].passed
    assert found.quiet.passed
    assert len(found.bounds) == 2


def test_half_of_its_noise_is_a_violation(folder):
    found = audit(folder(rounded_gaussian(1.0, share=0.5)))
    assert found.exit_code == 3
    assert "there is less noise than claimed" in found.verdict
    assert math.isfinite(found.claimed.audit.claim.epsilon)


def test_without_a_description_there_is_no_guarantee(folder):
    made = rounded_gaussian(1.0)

    def silent(state, exposure):
        return tuple(replace(entry, details={}) for entry in made.spend(state, exposure))

    found = audit(folder(replace(made, spend=silent)))
    assert found.exit_code == 4
    assert "rounded_gaussian with tossing coins sampling" in found.verdict
