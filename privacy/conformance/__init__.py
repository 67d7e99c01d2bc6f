"""Adversarial cases for anybody's private aggregation: contributions in, a released aggregate out.

    subject = Subject(name="mine", release=release, clip_norm=1.0, noise_multiplier=0.01, cohort=5)
    for finding in check(subject):
        print(finding)

`release` takes a `Cohort` and gives the released aggregate, or None where nothing is released.  It
is run on pairs of cohorts in which one unit contributes something nasty, or next to nothing.  What
is asked is always the same: that both are released, or both refused; that the release is finite;
and that every tensor of it has as much noise as what the unit moves calls for.

    module     is
    subject    what is examined, and what it claims
    cases      the pairs of cohorts
    findings   how they are examined, and what is said of them

Numbers are numpy's, so that a subject can be anything; nothing here imports torch.
"""

from privacy.conformance.cases import CASES, Case
from privacy.conformance.findings import Finding, check
from privacy.conformance.subject import Cohort, Contribution, Subject

__all__ = ["CASES", "Case", "Cohort", "Contribution", "Finding", "Subject", "check"]
