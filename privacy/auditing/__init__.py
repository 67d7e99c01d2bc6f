"""Audits: what a mechanism that was run can be shown to leak. A lower bound, never a proof.

An audit says: whoever sees this much can tell, this surely, that this unit took part, so epsilon is
at least so much.  If that is above what an accountant claims, there is a bug.  It never shows that
there is none.

    module      what is played                                    what comes out
    counts      one canary, in and out, the mechanism run again   a lower bound
    bayes       the same                                          a credible interval, no bound
    one_run     many canaries in one run, each by a coin          a lower bound
    cosine      canary clients in one run                         an estimate; a bound that assumes
    canary      one canary in single steps                        the noise multiplier, an interval
    lira        shadow models                                     scores for `counts`
    retraining  one small training, many times over               models, with and without
    membership  loss threshold and LiRA on those models           lower bounds, rates
    sampler     the sizes of cohorts                              whether they are as claimed
    quiet       what canaries saw in every round                  whether each had its noise
    traces      -                                                 a run's files, checked
    observed    a run's own canaries                              arrays for the next two
    noise       -                                                 `wiring` and `quiet` of a run
    attack      -                                                 `one_run` and `cosine` of a run
    verdict     -                                                 all of it beside the claim

Functions are pure and take arrays; only `retraining` trains.  All observations of one call are
taken to be independent, unless it says otherwise.
"""

from privacy.auditing.bounds.clopper_pearson import Counts
from privacy.auditing.bounds.lower_bound import LowerBound
from privacy.auditing.bounds.one_run import Guesses
from privacy.auditing.noise.cohort_sizes import SamplerCheck, fixed_sizes, poisson_sizes
from privacy.auditing.noise.step_test import Wiring, wiring
from privacy.auditing.run.verdict import Audit, Claim, Verdict

__all__ = [
    "Audit",
    "Claim",
    "Counts",
    "Guesses",
    "LowerBound",
    "SamplerCheck",
    "Verdict",
    "Wiring",
    "fixed_sizes",
    "poisson_sizes",
    "wiring",
]
