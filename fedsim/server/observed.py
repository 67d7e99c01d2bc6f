"""A round that is finished while its canaries are observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fedsim.canaries.observe import RoundObserver
from fedsim.canaries.plan import RoundObservation
from fedsim.server.round import Outcome, ServerState, finish_round
from fedsim.server.setup import PreparedRun
from fedsim.server.transport import Replies, Work


def finish_observed(
    prepared: PreparedRun, state: ServerState, work: Work, replies: Iterable[Replies]
) -> tuple[Outcome, RoundObservation | None]:
    """Finish a round; gives also the observations of canaries, where the run has any."""
    if prepared.canaries is None:
        return finish_round(prepared, state, work, replies), None
    observer = RoundObserver(
        prepared.canaries,
        prepared.scenario,
        prepared.dealt,
        strategy=state.strategy,
        mechanism=state.mechanism,
        round_num=work.round_num,
    )

    def observed() -> Iterator[Replies]:
        for portion in replies:
            if portion.update is not None:
                observer.observe_updates(portion.clients, portion.update)
            yield portion

    outcome = finish_round(replace(prepared, scenario=observer.scenario), state, work, observed())
    return outcome, observer.observation()
