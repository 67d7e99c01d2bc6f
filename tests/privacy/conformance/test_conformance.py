"""The conformance kit: our mechanisms pass, Flower's wrappers fail, and planted bugs are found.

The findings about Flower hold for the installed version. If a test fails after an upgrade because
Flower has fixed a bug, remove that line from the list below.
"""

import itertools

import numpy as np
import pytest
from flwr.serverapp import NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod

from fedsim.core.errors import PrivacyError
from privacy.conformance import CASES, Cohort, Subject, check
from privacy.conformance.cases import RULES
from tests.helpers.conformance_subjects import flower_adaptive, flower_before, flower_fixed, ours
from tests.helpers.mechanisms import MECHANISMS

Z = 0.01


# --- a mechanism in plain NumPy, with planted bugs -----------------------------------------------


def numpy_mechanism(
    *,
    noise=1.0,
    silent=None,
    clipped=lambda name: True,
    divisor=lambda cohort: 5,
    weight=lambda contribution: 1.0,
    finite=True,
    empty=True,
    safe=True,
    twice=False,
    whole=False,
) -> Subject:
    """Clips, sums, adds noise and divides by 5; each argument plants one bug."""
    streams = itertools.count()

    def factor(update):
        norm = sum(float((a.astype(float) ** 2).sum()) for n, a in update.items() if clipped(n))
        return min(1.0, 1.0 / norm**0.5) if norm or not safe else 1.0

    def release(cohort: Cohort):
        stream = np.random.default_rng(next(streams))
        if not whole and any(array.dtype.kind == "i" for array in cohort.like.values()):
            raise ValueError("integer tensors are not supported")
        if cohort.has_duplicates and not twice:
            raise ValueError("a unit was drawn twice")
        if not cohort.contributions and not empty:
            return None
        total = {name: np.zeros(array.shape) for name, array in cohort.like.items()}
        for contribution in cohort.contributions:
            update = contribution.update
            if finite and not all(np.isfinite(array).all() for array in update.values()):
                continue
            scale = factor(update) * weight(contribution)
            for name, array in update.items():
                total[name] += array * (scale if clipped(name) else 1.0)
        return {
            name: (array + noise * Z * stream.standard_normal(array.shape) * (name != silent))
            / divisor(cohort)
            for name, array in total.items()
        }

    return Subject(name="numpy", release=release, clip_norm=1.0, noise_multiplier=Z)


def failed_cases(subject) -> dict[str, str]:
    return {finding.case: finding.happened for finding in check(subject)}


def test_a_mechanism_that_clips_sums_and_adds_noise_to_the_sum_passes():
    assert check(numpy_mechanism()) == []


PLANTED = {
    "half the noise": (
        numpy_mechanism(noise=0.5),
        {"ordinary", "0-d parameter", "empty cohort", "skewed weights", "dropout"},
    ),
    "no noise on one tensor": (
        numpy_mechanism(silent="body.bias"),
        {case.name for case in CASES} - {"integer buffer", "drawn twice"},
    ),
    "no clip on one tensor": (
        numpy_mechanism(clipped=lambda name: name != "scale"),
        {"0-d parameter"},
    ),
    "NaN is summed": (numpy_mechanism(finite=False), {"NaN update"}),
    "0 / 0 in clipping": (numpy_mechanism(safe=False), {"zero update"}),
    "no release of an empty cohort": (numpy_mechanism(empty=False), {"empty cohort"}),
    "weights by claimed examples": (
        numpy_mechanism(weight=lambda c: c.examples),
        {"skewed weights"},
    ),
    "a unit drawn twice counts twice": (numpy_mechanism(twice=True), {"drawn twice"}),
    "a counter that is not clipped": (
        numpy_mechanism(whole=True, clipped=lambda name: name != "batches"),
        {"integer buffer"},
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_fails_these_cases_and_no_others(bug):
    subject, cases = PLANTED[bug]
    assert failed_cases(subject).keys() == cases


def test_dividing_by_the_realised_cohort_size_is_found_when_units_drop_out():
    """The noise is scaled for the planned cohort size, as wrappers around a mean do."""
    honest = numpy_mechanism(divisor=lambda cohort: 1)

    def release(cohort):
        quiet = {n: np.zeros_like(a) for n, a in cohort.like.items()}
        noise = honest.release(Cohort(like=quiet, contributions=(), drawn=5))
        signal = numpy_mechanism(noise=0.0).release(cohort)
        came = max(1, len(cohort.contributions))
        return {name: signal[name] * 5 / came + noise[name] / 5 for name in signal}

    subject = Subject(name="mean", release=release, clip_norm=1.0, noise_multiplier=Z)
    assert failed_cases(subject).keys() == {"dropout", "empty cohort"}


def test_a_finding_states_the_expected_and_actual_behaviour_and_the_broken_rule():
    (finding,) = check(numpy_mechanism(empty=False))
    assert finding.rule == 7
    assert str(finding) == (
        "numpy: empty cohort must give noise, as in any other round; got no release, for one of "
        "two neighbours only. Rule 7: an empty sample is a normal round: noise is added, and "
        "charged."
    )


def test_every_case_belongs_to_a_documented_rule():
    assert {case.rule for case in CASES} <= RULES.keys()


BAD = {
    "too few units": {"cohort": 2},
    "no clip norm": {"clip_norm": 0.0},
    "too much noise": {"noise_multiplier": 1.0},
    "no noise": {"noise_multiplier": 0.0},
}


@pytest.mark.parametrize("what", BAD)
def test_an_invalid_subject_is_refused_in_one_line(what):
    given = {"name": "x", "release": dict, "clip_norm": 1.0, "noise_multiplier": Z} | BAD[what]
    with pytest.raises(PrivacyError, match=r"^Subject: \w+ must be .+; got .+\. \w.+\.$"):
        Subject(**given)
    with pytest.raises(PrivacyError, match="repeats must be"):
        check(numpy_mechanism(), repeats=5)


# --- ours ----------------------------------------------------------------------------------------


SLOW = {"nu_ftrl steps", "blt steps"}  # fresh noise needs a new run for each release
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in MECHANISMS
    if name != "error_feedback"  # it claims no guarantee
]


@pytest.mark.parametrize("name", NAMES)
def test_our_mechanisms_pass_every_case(name):
    assert check(ours(name)) == []


# --- Flower's ------------------------------------------------------------------------------------

# case -> part of the finding, the same for every wrapper with clipping at the server
FLOWER = {
    "0-d parameter": "of the required noise",  # a tensor without axes is not clipped
    "integer buffer": "UFuncTypeError",  # only if it needs clipping
    "NaN update": "a release that is not finite",
    "zero update": "ZeroDivisionError",
    "empty cohort": "for one of two neighbours only",
    "skewed weights": "0.2",  # a mean by examples, with the noise of a plain one
    "drawn twice": "0.5",
    "dropout": "0.4",  # a mean over two, with the noise of one over five
}


@pytest.mark.parametrize("make", [flower_fixed, flower_adaptive, flower_before])
def test_flowers_wrappers_fail_these_cases(make, flower_identity):
    found = failed_cases(make())
    assert found.keys() == FLOWER.keys()
    for case, words in FLOWER.items():
        if case in ("skewed weights", "drawn twice", "dropout"):
            assert float(found[case].split()[0]) == pytest.approx(float(words), abs=0.1)
        else:
            assert words in found[case]
    assert float(found["0-d parameter"].split()[0]) < 1e-3


def test_with_an_accountant_flower_refuses_unequal_weights_and_dropouts(flower_identity):
    """Flower is right to refuse; the remaining findings are bugs in clipping and counting."""

    config = PrivacyConfig(
        target_delta=1e-5,
        population_size=1000,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    found = failed_cases(flower_fixed(RdpAccountant(config)))
    assert found.keys() == FLOWER.keys() - {"skewed weights", "dropout"}
