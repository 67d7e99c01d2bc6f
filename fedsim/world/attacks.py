"""Byzantine attacks, to test robust aggregators: some clients change their labels or updates.

Two kinds. Data poisoning: the attackers train honestly on labels that they changed. Update
poisoning: the attackers collude, know all honest updates of the round, and send others in place of
their own. An attack that needs honest updates sends the attackers' own if there are none.
Attackers behave like honest clients in all else: they are sampled as often, report their true
numbers of examples, and the server bounds their updates like any other.

The attackers are given, or drawn once for a run from the stream (seed, ATTACK).

Shapes: a attackers and h honest clients of a round, n = a + h; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

from torch import Tensor

from fedsim.core import trees
from fedsim.core.attack import Attack
from fedsim.core.errors import InputError, at_least, non_negative, positive
from fedsim.core.rng import Purpose, numpy_stream
from fedsim.core.trees import Tree
from fedsim.core.updates import Update


def choose_attackers(attack: Attack | None, population: int, seed: int) -> frozenset[int]:
    """Draw the client numbers of the attackers, or take those that are given.

    Raises:
        InputError: the population has too few clients, or not those given.
    """
    if attack is None:
        return frozenset()
    if isinstance(attack.clients, tuple):
        if max(attack.clients) >= population:
            raise InputError(
                f"{attack.name}: clients must be below the population, {population}; "
                f"got {max(attack.clients)}. Clients are numbered from 0."
            )
        return frozenset(attack.clients)
    if attack.clients > population:
        raise InputError(
            f"{attack.name}: clients must be at most the population, {population}; "
            f"got {attack.clients}. Let fewer attack."
        )
    drawn = numpy_stream(seed, Purpose.ATTACK).choice(population, attack.clients, replace=False)
    return frozenset(drawn.tolist())


def forge_updates(forge: Callable[[Tree, Tree], Tree], update: Update, attacking: Tensor) -> Update:
    """Replace the attackers' updates of a round by forged ones.

    The attackers know the honest updates that are finite.

    Args:
        forge: of the attack.
        update: the updates of all clients that replied.
        attacking: which rows belong to attackers, bool [n].
    """
    if not bool(attacking.any()):
        return update
    attacking = attacking.to(update.num_examples.device)
    honest = trees.finite_rows(update.diff) & ~attacking
    new = forge(trees.select_rows(update.diff, attacking), trees.select_rows(update.diff, honest))
    diff = {
        name: value.index_copy(0, attacking.nonzero().flatten(), new[name])
        for name, value in update.diff.items()
    }
    return Update(diff, update.num_examples)


def label_flip(clients: int | Sequence[int]) -> Attack:
    """Attackers train on the labels C - 1 - y and send the resulting update.

    Args:
        clients: how many attack, or their client numbers.

    Raises:
        InputError: fewer than one client, or client numbers that repeat or are below 0.

    Guarantees:
        It changes the training labels of the attackers and no others.
    """
    who = _clients("label_flip", clients)
    return Attack(name="label_flip", clients=who, labels=lambda y, classes: classes - 1 - y)


def sign_flip(clients: int | Sequence[int], scale: float = 1.0) -> Attack:
    """Attackers send their update times -scale.

    Args:
        clients: how many attack, or their client numbers.
        scale: > 0.

    Raises:
        InputError: as for `label_flip`, or scale is not above 0.
    """
    positive("sign_flip", "Use 1.", scale=scale)

    def forge(own: Tree, honest: Tree) -> Tree:
        return trees.scale(own, -scale)

    who = _clients("sign_flip", clients)
    return Attack(name=f"sign_flip({scale:g})", clients=who, forge=forge)


def little_is_enough(clients: int | Sequence[int], z: float | None = None) -> Attack:
    """Attackers send the honest mean less z standard deviations, coordinate by coordinate.

    With the paper's z, the honest clients that are further from the mean than the attackers make a
    majority together with them: Phi^-1((h - s) / h) with s = floor(n / 2 + 1) - a, from the n and a
    of each round. If attackers are so few that it is below 0, z is 0; if they are the majority, s
    is 1.

    Source: Baruch, Baruch, Goldberg (2019), arXiv:1902.06156. The paper's attackers estimate mean
    and deviation from their own honest updates; here they know all honest updates.

    Args:
        clients: how many attack, or their client numbers.
        z: >= 0; None for the paper's.

    Raises:
        InputError: as for `label_flip`, or z is negative.
    """
    if z is not None:
        non_negative("little_is_enough", "Leave it out for the paper's z.", z=z)

    def forge(own: Tree, honest: Tree) -> Tree:
        if not _rows(honest):
            return own
        far = largest_z(_rows(honest), _rows(own)) if z is None else z
        return {
            name: (value.mean(dim=0) - far * value.std(dim=0, correction=0)).expand_as(own[name])
            for name, value in honest.items()
        }

    name = "little_is_enough" if z is None else f"little_is_enough({z:g})"
    return Attack(name=name, clients=_clients("little_is_enough", clients), forge=forge)


def inner_product(clients: int | Sequence[int], epsilon: float = 0.5) -> Attack:
    """Attackers send -epsilon times the honest mean.

    The mean of all updates points the wrong way if epsilon > h / a; against rules based on
    distances a small epsilon, down to 0.1 in the paper, is the stronger attack.

    Source: Xie, Koyejo, Gupta (2019), "Fall of Empires", arXiv:1903.03936.

    Args:
        clients: how many attack, or their client numbers.
        epsilon: > 0.

    Raises:
        InputError: as for `label_flip`, or epsilon is not above 0.
    """
    positive("inner_product", "Use 0.5.", epsilon=epsilon)

    def forge(own: Tree, honest: Tree) -> Tree:
        if not _rows(honest):
            return own
        return {
            name: (-epsilon * value.mean(dim=0)).expand_as(own[name])
            for name, value in honest.items()
        }

    who = _clients("inner_product", clients)
    return Attack(name=f"inner_product({epsilon:g})", clients=who, forge=forge)


def largest_z(honest: int, attacking: int) -> float:
    """The z of `little_is_enough` for h honest clients and a attackers."""
    supporters = max(1, (honest + attacking) // 2 + 1 - attacking)
    part = (honest - supporters) / honest
    return max(0.0, NormalDist().inv_cdf(part)) if part > 0 else 0.0


def _clients(who: str, clients: int | Sequence[int]) -> int | tuple[int, ...]:
    if isinstance(clients, int):
        at_least(who, 1, "For no attackers, leave the attack out.", clients=clients)
        return clients
    numbers = tuple(sorted(clients))
    if not numbers or numbers[0] < 0 or len(set(numbers)) < len(numbers):
        raise InputError(
            f"{who}: clients must be distinct numbers from 0; got {list(clients)}. "
            "Give how many, or which."
        )
    return numbers


def _rows(stack: Tree) -> int:
    return len(next(iter(stack.values())))
