"""A run folder written before the packages had layers (commit 12282a3) still resumes.

tests/helpers/run_of_version_0_1 is a SCAFFOLD run, killed after round 2 of 4, with the metrics of
the same run without the kill beside it.
"""

import json
import shutil
from pathlib import Path

import pytest

import fedsim

OLD = Path(__file__).parents[1] / "helpers" / "run_of_version_0_1"


def rows(path):
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in lines]


def test_a_run_folder_of_an_earlier_version_resumes(tmp_path, no_pictures):
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    before = rows(folder / "metrics.jsonl")
    assert [row["round"] for row in before] == [1, 2]
    fedsim.resume(folder, progress=False)
    after, whole = rows(folder / "metrics.jsonl"), rows(OLD / "whole_metrics.jsonl")
    assert after[:2] == before  # what was done is kept as it was
    for row, expected in zip(after, whole, strict=True):  # bits are those of one machine
        for key, value in expected.items():
            if isinstance(value, float):
                assert row[key] == pytest.approx(value, rel=1e-4), key
