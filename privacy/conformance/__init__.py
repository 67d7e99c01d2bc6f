"""Adversarial tests of any private aggregation: contributions in, a released aggregate out.

    subject = Subject(name="mine", release=release, clip_norm=1.0, noise_multiplier=0.01, cohort=5)
    for finding in check(subject):
        print(finding)

`release` maps a `Cohort` to the released aggregate, or to None where nothing is released. It is run
on pairs of neighbouring cohorts: in one of them a unit makes an extreme contribution, in the other
a tiny one. The requirements are the same in every case: both cohorts are released, or both are
refused; the release is finite; and every tensor of it has the noise that the unit's influence on
the release calls for.

    module     contents
    subject    the aggregation under test, and the guarantees it claims
    cases      the pairs of cohorts
    findings   how a subject is tested, and how failures are reported

Arrays are NumPy's, so a subject can be written with any library. Importing this package does not
import torch.
"""

from privacy.conformance.cases import CASES, Case
from privacy.conformance.findings import Finding, check
from privacy.conformance.subject import Cohort, Contribution, Subject

__all__ = ["CASES", "Case", "Cohort", "Contribution", "Finding", "Subject", "check"]
