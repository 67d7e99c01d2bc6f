"""Means over seeds and paired differences."""

import numpy as np
import pytest
from scipy import stats

from fedsim.runs.statistics import Interval, epsilon_text, interval, paired_difference


def test_an_interval_is_student_ts():
    values = [0.7, 0.8, 0.84]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert found.mean - found.half == pytest.approx(low)
    assert found.mean + found.half == pytest.approx(high)
    assert interval([0.5]) == Interval(mean=0.5, half=None)
    assert Interval(mean=0.5, half=0.01).text(100) == "50.00 +/- 1.00"


def test_a_paired_difference_is_over_the_seeds_that_both_have():
    found = paired_difference({1: 0.5, 2: 0.7, 4: 9.0}, {2: 0.4, 1: 0.4, 3: 7.0})
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(interval([0.1, 0.3]).half)
    assert paired_difference({1: 0.5}, {2: 0.4}) is None


def test_an_epsilon_is_rounded_up():
    assert epsilon_text(1.2301) == "1.231"
    assert epsilon_text(float("inf")) == "no guarantee"
    assert epsilon_text(None) == ""
