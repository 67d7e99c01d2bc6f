"""What is leaked: mechanisms, accounting and audits. Knows nothing of strategies.

A mechanism is one argument of a scenario. Which one protects whom:

    none                 no one
    dp_sgd               examples, from everyone except their own client
    batch_clipping       the same, for shuffled batches
    correlated_dp_sgd    the same, with noise that is correlated across a client's steps
    error_feedback       the same where gradients are bounded; otherwise no guarantee
    client_dp            clients, from everyone who sees the models
    correlated_noise     the same, with noise that is correlated across rounds
    local_dp             clients, from everyone, the server included

A mechanism's module is imported when its name is first used, so that `import privacy.conformance`
and `import privacy.validate` load neither torch nor scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {name: name for name in __all__} | {"correlated_noise": "correlated_client_dp"}


def __getattr__(name: str) -> Any:
    """Import a mechanism by its name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    mechanism = getattr(import_module(f"privacy.mechanisms.{_MODULES[name]}"), name)
    globals()[name] = mechanism
    return mechanism


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
