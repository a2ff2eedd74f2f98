"""Battles as learners know them: the toy game keeps the contract, but the engine must too."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from battle3v2 import BATTLE
from toy import TOY

from baselines.cli import main
from baselines.config import EvaluateConfig, MappoConfig
from baselines.evaluation import evaluate_run
from baselines.experience.battles import HostBattles, make_battles, make_env
from baselines.runs import checkpoints, loop

EACH = pytest.mark.parametrize("env_id", [TOY, BATTLE], ids=["toy", "engine"])


class Keeper(gymnasium.vector.VectorWrapper):
    """Keep the arrays that the environment gave last."""

    def reset(self, **keywords):
        self.obs, self.info = self.env.reset(**keywords)
        return self.obs, self.info

    def step(self, actions):
        result = self.env.step(actions)
        self.obs, self.reward, self.terminated, self.truncated, self.info = result
        return result


def battles_of(env_id):
    """Return six battles that have just been reset."""
    battles = HostBattles(Keeper(make_env(env_id, 6)))
    battles.reset(1)
    return battles


def legal(seen):
    """Return the last allowed action of each agent: in a battle it is the boldest."""
    return seen.action_mask.shape[-1] - 1 - seen.action_mask.flip(-1).int().argmax(-1)


def play_until_a_reset_row(battles):
    while battles.observe().valid.all():
        battles.step(legal(battles.observe()))


@EACH
def test_tensors_have_the_documented_types_and_shapes(env_id):
    battles = battles_of(env_id)
    num_agents, num_actions = battles.sizes.num_agents, battles.sizes.num_actions
    for _ in range(2):
        shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in battles.observe()]
        assert shapes == [
            (torch.float32, (6, num_agents, battles.sizes.obs_size)),
            (torch.float32, (6, battles.sizes.state_size)),
            (torch.bool, (6, num_agents, num_actions)),
            (torch.bool, (6, num_agents)),
            (torch.bool, (6,)),
        ]
        outcome = battles.step(legal(battles.observe()))
        assert [tensor.dtype for tensor in outcome] == [torch.float32, *[torch.bool] * 4]
        assert all(tensor.shape == (6,) for tensor in outcome)
    battles.close()


@EACH
def test_on_a_cpu_the_environments_arrays_are_shared_not_copied(env_id):
    battles = battles_of(env_id)
    for _ in range(3):
        seen, env = battles.observe(), battles.env
        assert np.shares_memory(seen.obs.numpy(), env.obs)
        assert np.shares_memory(seen.state.numpy(), env.info["state"])
        assert np.shares_memory(seen.alive.numpy(), env.info["alive"])
        outcome = battles.step(legal(seen))
        assert np.shares_memory(outcome.reward.numpy(), env.reward)
        assert np.shares_memory(outcome.terminated.numpy(), env.terminated)
        assert np.shares_memory(outcome.truncated.numpy(), env.truncated)
    battles.close()


@EACH
def test_the_row_after_a_battles_end_is_a_reset_row_in_which_nothing_happens(env_id):
    battles, ended, resets = battles_of(env_id), torch.zeros(6, dtype=torch.bool), 0
    for _ in range(120):
        seen = battles.observe()
        assert torch.equal(seen.valid, ~ended)
        last = seen.obs[ended].clone()
        outcome = battles.step(legal(seen))
        assert torch.equal(outcome.ended, outcome.terminated | outcome.truncated)
        assert not outcome.ended[ended].any()
        assert not outcome.reward[ended].any()
        if ended.any():  # the battle's last observation was still there, the next one is new
            assert not torch.equal(last, battles.observe().obs[ended])
        resets += int(ended.sum())
        ended = outcome.ended.clone()
    assert resets > 6
    battles.close()


@EACH
def test_restored_battles_continue_with_their_reset_rows(env_id):
    battles, others = battles_of(env_id), battles_of(env_id)
    play_until_a_reset_row(battles)
    saved, seen = battles.checkpoint(), [tensor.clone() for tensor in battles.observe()]
    resets = ~seen[-1]
    assert 0 < resets.sum()
    others.restore(saved)
    assert others.observe().valid.all()
    others.mark_resets(resets)
    for wanted, found in zip(seen, others.observe(), strict=True):
        assert torch.equal(wanted, found)
    for _ in range(30):
        actions = legal(battles.observe())
        assert torch.equal(actions, legal(others.observe()))
        for wanted, found in zip(battles.step(actions), others.step(actions), strict=True):
            assert torch.equal(wanted, found)
        for wanted, found in zip(battles.observe(), others.observe(), strict=True):
            assert torch.equal(wanted, found)
    for each in (battles, others):
        each.close()


def test_as_many_battles_are_made_as_the_config_or_the_caller_says():
    config = MappoConfig(env=TOY, num_envs=5)
    assert make_battles(config).num_envs == 5
    battles = make_battles(config, 3)
    assert battles.num_envs == len(battles.env.reset(seed=1)[0]) == 3
    assert battles.id == "toy/coordination-v0"
    assert battles.fingerprint["engine_version"] == "toy-1"


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
