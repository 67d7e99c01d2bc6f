"""The scenario text_lora."""

import json

import pytest
import torch

from fedsim.cli import main
from fedsim.core.errors import InputError
from fedsim.core.settings import Settings
from fedsim.runs.folder import read_metrics
from fedsim.server.setup import prepare
from scenarios import text_lora
from tests.helpers.texts import sentences


@pytest.fixture
def little_texts(monkeypatch):
    """Short texts of two kinds in the place of SST-2, whose base would take half a minute."""
    made = lambda tokenizer, half: sentences()  # noqa: E731
    monkeypatch.setitem(text_lora._SOURCES, "sst2", (made, 2, 6))


def test_text_lora_runs_from_the_command_line(tmp_path, little_texts):
    command = ["run", "text_lora", "--rounds", "2", "--width", "2", "--workers", "1"]
    sizes = ["--local-steps", "2", "--batch-size", "4", "--evaluate-every", "2"]
    noise = ["--clip-norm", "1", "--noise-multiplier", "1"]
    assert main([*command, *sizes, *noise, "--out", str(tmp_path / "run")]) == 0
    floats = 2 * 2 * 64 * 8  # two layers' queries and values, p x r
    sent = [line["bytes_up"] for line in read_metrics(tmp_path / "run")]
    assert sent == [3 * floats * 4] * 2
    privacy = json.loads((tmp_path / "run/summary.json").read_text())["privacy"]
    assert privacy["unit"] == "example"
    assert privacy["epsilon"] == read_metrics(tmp_path / "run")[-1]["epsilon"] > 0.1


def test_noise_without_a_clip_norm_is_refused():
    with pytest.raises(InputError, match="must be given together; got 0 and 1"):
        text_lora.scenario(noise_multiplier=1.0)


def test_the_classifier_is_not_the_one_that_the_base_was_trained_with(little_texts):
    task = text_lora.scenario().task
    ready, data = task.prepare(None), sentences().load(None).train
    blank, based = (one.predict(one.init(1), data.x) for one in (task, ready))
    assert not torch.allclose(based, blank)
    assert float((based.argmax(1) == data.y).float().mean()) < 0.9  # the base alone: above 0.95
    assert ready.init(1).keys() == task.init(1).keys()


def test_a_run_learns_and_is_judged_on_the_base(little_texts):
    scenario = text_lora.scenario()
    prepared = prepare(scenario, Settings(width=1, workers=1, device="cpu"))
    x, params = sentences().load(None).train.x[:8], prepared.initial_params
    wanted = scenario.task.prepare(None).predict(params, x)
    for task in (prepared.scenario.task, prepared.trainer.task):
        assert torch.equal(task.predict(params, x), wanted)
