"""The table of mechanisms whose ledger entries are known, made from the mechanisms' own files."""

from __future__ import annotations

from pathlib import Path

from fedsim.core.ledger import Entry, read_ledger
from privacy import validate
from privacy.accounting.ledger_account import LedgerAccount
from privacy.accounting.releases import Release
from privacy.mechanisms import (
    batch_clipping,
    client_dp,
    correlated_client_dp,
    correlated_dp_sgd,
    dp_sgd,
    error_feedback,
    local_dp,
)
from privacy.mechanisms.entry_reader import SELF_DESCRIBED, EntryReader

READERS = (
    batch_clipping.READER,
    dp_sgd.READER,
    correlated_dp_sgd.READER,
    error_feedback.READER,
    client_dp.READER,
    correlated_client_dp.READER,
    local_dp.READER,
)


def reader_of(entry: Entry) -> EntryReader:
    """The reader of the mechanism that wrote an entry.

    An entry that describes itself is taken at its word; so is one of an unknown mechanism, which
    has no guarantee where it does not describe its release.
    """
    if "release" in entry.details:
        return SELF_DESCRIBED
    return next((reader for reader in READERS if reader.wrote(entry)), SELF_DESCRIBED)


def release_of(entry: Entry) -> Release:
    """What an entry released, by the file of its mechanism or its own description."""
    return reader_of(entry).release(entry)


def ledger_account(delta: float) -> LedgerAccount:
    """An empty account of any ledger at a delta."""
    return LedgerAccount(delta, release_of)


def read_account(path: Path, delta: float) -> LedgerAccount:
    """The account of a `ledger.jsonl`.

    Raises:
        InputError: the ledger was changed.
        PrivacyError: delta is not in (0, 1).
    """
    validate.delta("ledger", delta)
    return ledger_account(delta).charge(read_ledger(path)[0])
