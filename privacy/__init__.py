"""What is leaked: mechanisms, accounting and audits. Knows nothing of strategies.

A mechanism is one argument of a scenario. Which one protects whom:

    none                 nobody
    dp_sgd               examples, from everybody but their own client
    batch_clipping       the same, for shuffled batches
    correlated_dp_sgd    the same, with noise that is correlated across a client's steps
    error_feedback       the same where gradients are bounded; otherwise no guarantee
    client_dp            clients, from whoever sees the models
    correlated_noise     the same, with noise that is correlated across rounds
    local_dp             clients, from everybody
"""

from privacy.mechanisms.batch_clipping import batch_clipping
from privacy.mechanisms.client_dp import client_dp
from privacy.mechanisms.correlated_client_dp import correlated_noise
from privacy.mechanisms.correlated_dp_sgd import correlated_dp_sgd
from privacy.mechanisms.dp_sgd import dp_sgd
from privacy.mechanisms.error_feedback import error_feedback
from privacy.mechanisms.local_dp import local_dp
from privacy.mechanisms.none import none

__all__ = [
    "batch_clipping",
    "client_dp",
    "correlated_dp_sgd",
    "correlated_noise",
    "dp_sgd",
    "error_feedback",
    "local_dp",
    "none",
]
