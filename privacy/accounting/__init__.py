"""Privacy accounting: (epsilon, delta) and trade-off curves of what mechanisms release.

A mechanism describes its releases by events; nothing else is trusted:

    events = [PoissonGaussian(sampling_prob=0.01, noise_multiplier=1.0, count=1000)]
    account(events, delta=1e-5)        # Report(epsilon=1.828..., method="pld(h=0.0001)", ...)
    epsilon(events, delta=1e-5)        # the same within 0.5 %, in milliseconds, for every round
    tradeoff(events)(0.05)             # the least type-II error of any attack
    beside(events, delta=1e-5)         # what other accountants say

    def run(z: float) -> list[Event]:
        return [PoissonGaussian(sampling_prob=0.01, noise_multiplier=z, count=1000)]

    calibrate(run, epsilon=2.0, delta=1e-5)   # 0.9592

Modules
    events             what accountants understand
    releases           what mechanisms release: named records, each with its event
    ledger_account     the account of a ledger, client by client
    composition        which accountant applies to which events
    calibrate          from epsilon to noise
    gaussian           the Gaussian mechanism in closed form
    pld, rdp           dp-accounting's privacy loss distributions and Renyi divergences
    fdp/               trade-off functions as values
    shuffled           shuffled batches and reports, random allocation
    lower_bounds       what no noise below a threshold can hide
    other_accountants  other accountants, for the events that they support
"""

from privacy.accounting.calibrate import calibrate
from privacy.accounting.composition import Report, account, epsilon, rdp_epsilon, tradeoff
from privacy.accounting.events import (
    Event,
    FixedSize,
    Gaussian,
    PoissonGaussian,
    PoissonReplace,
    Shuffled,
    TruncatedPoisson,
    Unsupported,
)
from privacy.accounting.fdp.tradeoff import TradeOff
from privacy.accounting.lower_bounds import warning
from privacy.accounting.other_accountants import beside

__all__ = [
    "Event",
    "FixedSize",
    "Gaussian",
    "PoissonGaussian",
    "PoissonReplace",
    "Report",
    "Shuffled",
    "TradeOff",
    "TruncatedPoisson",
    "Unsupported",
    "account",
    "beside",
    "calibrate",
    "epsilon",
    "rdp_epsilon",
    "tradeoff",
    "warning",
]
