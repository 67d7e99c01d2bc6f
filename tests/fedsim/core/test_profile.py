"""Where a run's time goes, and what it takes in memory."""

import json

import pytest

from fedsim.cli import main
from fedsim.core.profile import PARTS, Profile
from fedsim.training.executor import TimedExecutor
from fedsim.training.trainer import Clock


class Ticks:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def known(profile):
    return {name: seconds for name, seconds in profile.seconds.items() if seconds}


def test_time_within_nested_parts_counts_for_the_inner_one():
    clock = Ticks()
    profile = Profile(clock)
    with profile.part("aggregation"):
        clock.spend(1)
        with profile.part("messages"):
            clock.spend(2)
            with profile.part("local steps"):
                clock.spend(4)
        clock.spend(8)
    assert known(profile) == {"aggregation": 9, "messages": 2, "local steps": 4}
    assert sum(profile.seconds.values()) == clock.now


def test_the_time_to_produce_an_item_counts_apart_from_the_time_to_use_it():
    clock = Ticks()
    profile = Profile(clock)

    def items():
        for item in range(3):
            clock.spend(1)
            yield item

    with profile.part("aggregation"):
        for _ in profile.each("messages", items()):
            clock.spend(10)
    assert known(profile) == {"aggregation": 30, "messages": 3}


def test_the_wait_for_workers_is_split_as_their_own_clocks_split_it():
    clock = Ticks()
    profile = Profile(clock)

    class Busy:
        def train(self, *_):
            for _ in range(2):
                clock.spend(3)
                yield type("Made", (), {"clock": Clock(total=5.0, data=1.0)})

    assert len(list(TimedExecutor(Busy(), profile).train(1, None, [], None))) == 2
    assert known(profile) == {"local steps": pytest.approx(4.8), "data": pytest.approx(1.2)}


def test_a_profiled_run_stores_and_plots_its_seconds_by_part(tmp_path):
    out = tmp_path / "run"
    command = ["run", "digits_quickstart", "--rounds", "3", "--workers", "1"]
    assert main([*command, "--profile", "--out", str(out)]) == 0
    seconds = json.loads((out / "profile.json").read_text())["seconds"]
    assert list(seconds) == list(PARTS)
    assert all(seconds[name] > 0 for name in PARTS if name != "accounting")
    assert (out / "plots/profile.png").stat().st_size > 5000
    rounds = json.loads((out / "summary.json").read_text())["seconds"]
    inside = sum(seconds[part] for part in PARTS if part not in ("start", "pictures", "storage"))
    assert inside == pytest.approx(rounds, rel=0.1)


def test_a_run_that_is_not_profiled_leaves_no_profile(tmp_path):
    assert main(["run", "digits_quickstart", "--rounds", "1", "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run/profile.json").exists()


# --- memory --------------------------------------------------------------------------------------
