"""The example of docs/extend.md is a learner like any other."""

import dataclasses
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from baselines.algorithms import ALGORITHMS
from baselines.config import EvaluateConfig
from baselines.evaluation import evaluate_run
from baselines.runs import checkpoints, loop

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"
NAME = "baselines.learners.reinforce"


@pytest.fixture
def reinforce(monkeypatch):
    """Return the algorithm of the page, registered as the page says."""
    settings, learner, row = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)
    names = {"__name__": "baselines.config"}
    exec(compile(settings, "config.py", "exec"), names)
    exec(compile(learner, "reinforce.py", "exec"), vars(module))
    monkeypatch.setitem(ALGORITHMS, "reinforce", None)  # removed again after the test
    exec(compile(row, "algorithms.py", "exec"), names)
    return ALGORITHMS["reinforce"]


def test_the_algorithm_of_the_page_trains_resumes_and_is_evaluated(reinforce, tmp_path):
    small = {"num_envs": 4, "num_steps": 8, "hidden_size": 8, "num_threads": 1, "anneal_lr": False}
    settings = reinforce.config(runs_dir=str(tmp_path / "whole"), total_steps=200, **small)
    (whole,), stopped = loop.train("reinforce", settings)
    assert stopped is None
    shorter = dataclasses.replace(settings, runs_dir=str(tmp_path / "cut"), total_steps=100)
    (cut,), _ = loop.train("reinforce", shorter)
    loop.train("reinforce", dataclasses.replace(settings, resume=str(cut)))
    folders = [checkpoints.step_folders(path / "checkpoints")[-1] for path in (whole, cut)]
    first, second = (checkpoints.load(folder).weights for folder in folders)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {"losses/policy_loss", "charts/learning_rate"} <= lines[-1].keys()
    result, _ = evaluate_run(EvaluateConfig(str(whole), episodes=4, num_envs=2, num_threads=1))
    assert result["episodes"] == 4
