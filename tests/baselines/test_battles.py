"""MAPPO on real battles: the toy game keeps the contract, but the engine must too."""

import dataclasses

import torch

from baselines.cli import main
from baselines.config import EvaluateConfig, MappoConfig
from baselines.evaluation import evaluate_run
from baselines.runs import checkpoints, loop


def test_a_run_on_battles_resumes_bit_for_bit_and_can_be_evaluated(tmp_path):
    config = MappoConfig(
        env="smacv2/zerg_5_vs_5",
        runs_dir=str(tmp_path),
        total_steps=3000,
        checkpoint_steps=1000,
        num_envs=16,
        num_steps=40,
        hidden_size=16,
        num_threads=1,
    )
    (path,), _ = loop.train("mappo", config)
    folders = checkpoints.step_folders(path / "checkpoints")
    whole = checkpoints.load(folders[-1])
    for folder in folders[-2:]:
        (folder / "trainer.pt").unlink()
    loop.train("mappo", dataclasses.replace(config, resume=str(path)))
    resumed = checkpoints.load(checkpoints.step_folders(path / "checkpoints")[-1])
    assert resumed.global_step == whole.global_step
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    for name, value in whole.env.items():
        assert (value == resumed.env[name]).all(), name
    result, _ = evaluate_run(EvaluateConfig(str(path), num_threads=1, episodes=8))
    assert result["episodes"] == 8
    assert result["environment"]["fingerprint"]["scenario"] == "zerg_5_vs_5"


def test_the_scenario_is_named_by_env_alone(capsys, tmp_path):
    options = ["--env-option", "scenario=zerg_5_vs_5", "--runs-dir", str(tmp_path)]
    assert main(["mappo", "--env", "smacv2/terran_5_vs_5", *options]) == 2
    said = capsys.readouterr().err
    assert "--env names the scenario" in said
    assert said.count("\n") == 1
    assert not any(tmp_path.iterdir())
