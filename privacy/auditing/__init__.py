"""Audits: lower bounds on what a run leaks, and tests of its noise and sampling.

An attack that can tell with some confidence whether a unit took part shows that epsilon is at least
so much. If that is above what an accountant claims, there is a bug. An audit never shows that there
is none.

    module                     what is tested                                what comes out
    bounds/clopper_pearson     one canary, in and out, run again and again   a lower bound
    bounds/bayes               the same                                      a credible interval
    bounds/one_run             many canaries in one run, each by a coin      a lower bound
    bounds/cosine              canary clients in one run                     an estimate
    membership/shadow_models   one small training, many times over           models
    membership/lira            shadow models                                 scores
    membership/inference       loss threshold and LiRA on those models       lower bounds, rates
    noise/step_test            noise in single steps                         a noise multiplier
    noise/round_test           noise in every round                          rounds without noise
    noise/cohort_sizes         the sizes of cohorts                          a p-value
    noise/from_canaries        a run's canaries                              the two noise tests
    run/files, canary_record   a run folder                                  its content, checked
    run/canary_attack          a run's canaries                              `one_run`, `cosine`
    run/claim, verdict         the ledger and all findings                   the verdict
    run/report, plot           -                                             what people see

Functions are pure and take arrays; only `shadow_models` trains. All observations of one call are
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
