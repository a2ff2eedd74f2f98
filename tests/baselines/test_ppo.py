"""The promises of PPO: its losses by hand, its seeds apart, its runs, and that it learns."""

import copy
import dataclasses
import json
import math

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from pixels import CATCH
from torch import nn

from baselines.cli import main, training_config
from baselines.config import PpoConfig
from baselines.errors import TrainingError
from baselines.experience.collect import Clock
from baselines.experience.rollout import Rollout
from baselines.experience.rows import WeightedRows
from baselines.learners import ppo
from baselines.learners.ppo import (
    Columns,
    Minibatch,
    Ppo,
    estimate_advantages,
    minibatches_of,
)
from baselines.learners.ppo_policy import env_seeds
from baselines.networks.distributions import Categorical
from baselines.runs import checkpoints, loop


def small(**changes):
    fields = {
        "env": "CartPole-v1",
        "num_envs": 3,
        "num_steps": 40,
        "hidden_size": 16,
        "num_minibatches": 2,
        "update_epochs": 2,
        "num_threads": 1,
        "checkpoint_minutes": 0.0,
    }
    return PpoConfig(**fields | changes)


def collect(group):
    """Fill a group's rollout."""
    group.collector.collect(group.stack.frozen("actor"), group.draw_noise(), Clock())


def rollout(config):
    """Return a group with its first rollout, and a policy that depends on what it sees."""
    group = Ppo(config)
    with torch.no_grad():  # a head with gain 0.01 hides mistakes
        for agent in group.stack.agents:
            for network in (agent.actor, agent.critic):
                head = [layer for layer in network if isinstance(layer, nn.Linear)][-1]
                head.weight.mul_(1.0 / head.weight.std())
    collect(group)
    return group


def rows_of(batch, pick):
    """Return one minibatch of the rows `pick` of every seed."""
    (minibatch,) = minibatches_of(batch, pick.expand(len(batch.obs), 1, -1))
    return minibatch


def every_row(batch):
    return rows_of(batch, torch.arange(batch.obs.shape[1]))


def gradients(group):
    """Return the loss, its parts and the gradients on the whole rollout."""
    for block in group.stack.blocks.values():
        block.flat.grad.zero_()
    total, parts = group.loss(every_row(group.make_batch()))
    total.backward()
    flats = [block.flat.grad.clone() for block in group.stack.blocks.values()]
    return total.detach(), parts, flats


# Advantages


def hand_made(terminated, truncated):
    column = {"rewards": [1, 1, 0, 2, 3], "terminated": terminated, "truncated": truncated}
    dtypes = {"rewards": np.float32, "terminated": bool, "truncated": bool}
    arrays = {
        name: np.array(values, dtypes[name])[None, :, None] for name, values in column.items()
    }
    valid = np.ones((1, 5, 1), bool)
    return Rollout(obs=torch.empty(0), raw_actions=torch.empty(0), valid=valid, **arrays)


@pytest.mark.parametrize(
    ("terminated", "truncated", "timeout_is_terminal", "wanted"),
    [
        # Row 2 only resets: its advantage is never used. Discount and lambda are a half.
        ([0, 1, 0, 0, 0], [0, 0, 0, 0, 1], False, [0.75, -1.0, None, 0.75, 1.0]),
        ([0, 1, 0, 0, 0], [0, 0, 0, 0, 1], True, [0.75, -1.0, None, 0.0, -2.0]),
        ([0, 0, 0, 0, 0], [0, 1, 0, 0, 0], False, [1.125, 0.5, None, 0.75, 1.0]),
        ([0, 0, 0, 0, 0], [0, 1, 0, 0, 0], True, [0.75, -1.0, None, 0.75, 1.0]),
    ],
)
def test_advantages_by_hand(terminated, truncated, timeout_is_terminal, wanted):
    config = small(gamma=0.5, gae_lambda=0.5, timeout_is_terminal=timeout_is_terminal)
    values = torch.arange(1.0, 7.0).view(1, 6, 1)
    found = estimate_advantages(config, hand_made(terminated, truncated), values).flatten()
    for step, value in enumerate(wanted):
        if value is not None:
            assert float(found[step]) == value, step


# Rollouts


def test_the_rollout_is_what_the_environments_did():
    config = small(seeds=2, obs_norm="none", reward_norm="none")
    group = Ppo(config)
    collect(group)
    record = group.rollout
    seeds = env_seeds(config, [1, 2], 0)
    for index, seed in enumerate(seeds):
        seed_index, env = divmod(index, config.num_envs)
        alone = gymnasium.make("CartPole-v1")
        obs, reset = alone.reset(seed=seed)[0], False
        for step in range(config.num_steps):
            np.testing.assert_array_equal(record.obs[seed_index, step, env], obs)
            assert record.valid[seed_index, step, env] != reset
            if reset:
                assert record.rewards[seed_index, step, env] == 0
                obs, reset = alone.reset()[0], False
                continue
            action = int(record.raw_actions[seed_index, step, env, 0])
            obs, reward, terminated, _, _ = alone.step(action)
            assert record.rewards[seed_index, step, env] == reward
            assert record.terminated[seed_index, step, env] == terminated
            reset = terminated
        np.testing.assert_array_equal(record.obs[seed_index, -1, env], obs)
    assert (~record.valid).any()


@pytest.mark.parametrize("norm_adv", ["none", "unbiased", "biased"])
def test_reset_rows_change_nothing(norm_adv):
    group = rollout(small(seeds=2, norm_adv=norm_adv))
    before = gradients(group)
    reset = ~group.rollout.valid
    assert reset[:, 1:-1].any()
    rows = torch.from_numpy(reset)
    group.rollout.obs[:, :-1][rows] = 100.0  # CartPole terminates: not even V(s_T) is read
    group.rollout.raw_actions[rows] = 1 - group.rollout.raw_actions[rows]
    group.rollout.rewards[reset] = 1000.0
    after = gradients(group)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert all(map(torch.equal, before[2], after[2]))


def test_steps_that_only_reset_are_not_counted():
    group = Ppo(small(seeds=2))
    group.iterate()
    np.testing.assert_array_equal(group.global_steps, group.rollout.valid.sum((1, 2)))
    assert (group.global_steps < 3 * 40).all()


def test_logged_returns_are_the_environments_own():
    group = Ppo(small(reward_norm="running", num_steps=100))
    for _ in range(2):
        metrics = group.iterate()[0]
        assert metrics["charts/episodes"] > 0
        assert metrics["charts/episodic_return"] == metrics["charts/episodic_length"]  # 1 a step
        assert metrics["charts/episodic_return_max"] >= metrics["charts/episodic_return"]


# Losses


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("CartPole-v1", {}),
        ("Hopper-v5", {}),
        ("Hopper-v5", {"policy": "tanh_normal", "state_std": True, "log_ratio_clamp": True}),
        ("Hopper-v5", {"policy": "tanh_normal_atanh", "state_std": True}),
        (CATCH, {"num_steps": 12, "env_option": ("size=36",), "shared_trunk": True}),
    ],
)
def test_ratio_is_one_and_the_policy_loss_zero_before_the_first_step(env, changes):
    if env == "Hopper-v5":
        pytest.importorskip("mujoco")
    group = rollout(small(env=env, seeds=2, source="gymnasium", **changes))
    _, parts, _ = gradients(group)
    policy, _, _, kl, clipped, ratio, *_ = parts.T
    torch.testing.assert_close(ratio, torch.ones(2), atol=1e-5, rtol=0)
    for part in (policy, kl, clipped):  # normalised advantages have mean 0
        torch.testing.assert_close(part, torch.zeros(2), atol=2e-5, rtol=0)


def minibatch(**columns):
    """Return a minibatch of one seed, whose rows all count."""
    rows = len(next(iter(columns.values())))
    columns = {"raw_actions": [[0.0]] * rows, "valid": [1.0] * rows} | columns
    filled = {name: columns.get(name, [0.0] * rows) for name in Columns._fields}
    filled = {name: torch.tensor(values)[None] for name, values in filled.items()}
    return Minibatch(torch.zeros(1, rows, 1), Columns(**filled), WeightedRows(filled["valid"]), {})


class Fixed:
    """A stack of networks that return the same outputs whatever they see, and have no layers."""

    def __init__(self, **outputs):
        self.outputs = outputs

    def forward(self, network, obs):
        return self.outputs[network], []


def loss_of(minibatch, actor=None, critic=None, **changes):
    """Return the parts of the loss of one seed whose networks return these outputs."""
    group = Ppo(small(**changes))
    rows = minibatch.obs.shape[1]
    actor = torch.zeros(1, rows, 2) if actor is None else actor
    critic = torch.zeros(1, rows, 1) if critic is None else critic
    group.stack, group.distribution = Fixed(actor=actor, critic=critic), Categorical(2)
    _, parts = group.loss(minibatch)
    return dict(zip(ppo.LOSSES, parts[0].tolist(), strict=False))


def ratios_of(ratios, advantages, **changes):
    """Return the policy loss and its statistics where actions have these probability ratios."""
    old = torch.full((len(ratios),), 0.3)
    new = old * torch.tensor(ratios)
    outputs = torch.stack([new, 1 - new], -1).log()[None]
    rows = minibatch(advantages=advantages, log_probs=old.log().tolist())
    parts = loss_of(rows, actor=outputs, norm_adv="none", **changes)
    names = ("policy_loss", "approx_kl", "clipfrac", "ratio")
    return [parts[f"losses/{name}"] for name in names]


def test_policy_loss_by_hand():
    policy, kl, clipped, ratio = ratios_of([1.5, 0.5, 1.0], [1.0, -1.0, 2.0], clip_coef=0.2)
    assert policy == pytest.approx(-(1.2 - 0.8 + 2.0) / 3, rel=1e-5)
    assert kl == pytest.approx((0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 3, rel=1e-4)
    assert clipped == pytest.approx(2 / 3)
    assert ratio == pytest.approx(1.0, rel=1e-5)


def test_the_pessimistic_side_is_not_clipped():
    policy, *_ = ratios_of([1.5, 0.5], [-1.0, 1.0], clip_coef=0.2)
    assert policy == pytest.approx(-(-1.5 + 0.5) / 2, rel=1e-5)


def test_log_ratios_are_bounded_where_asked():
    policy, *_ = ratios_of([1e-12], [1.0], clip_coef=0.2, log_ratio_clamp=True)
    assert policy == pytest.approx(-1e-7, rel=1e-3)


@pytest.mark.parametrize(
    ("clip_vloss", "wanted"), [(False, (1 + 25 + 0.25) / 6), (True, (1.69 + 25 + 0.25) / 6)]
)
def test_value_loss_by_hand(clip_vloss, wanted):
    rows = minibatch(values=[1.5, 1.0, 2.0], returns=[0.0, 0.0, 2.5])
    values = torch.tensor([[1.0, 5.0, 2.0]]).unsqueeze(-1)  # (seeds, rows, 1)
    # Clipped to 0.2 around the old values they are 1.3, 1.2 and 2.
    parts = loss_of(rows, critic=values, clip_vloss=clip_vloss, clip_coef=0.2)
    assert parts["losses/value_loss"] == pytest.approx(wanted)


def test_advantages_are_normalised_over_the_rows_that_count():
    advantages = torch.tensor([[1.0, 2.0, 6.0, 1e6], [4.0, 1e6, 0.0, -4.0]])
    weights = torch.tensor([[1.0, 1, 1, 0], [1, 0, 1, 1]]) / 3
    rows = [advantages[seed][weights[seed] > 0] for seed in range(2)]
    for kind, scale in (
        ("unbiased", [row.std() + 1e-8 for row in rows]),
        ("biased", [row.std(correction=0).clamp(min=1e-6) for row in rows]),
    ):
        found = ppo.normalise(advantages, weights, kind)
        for seed, row in enumerate(rows):
            wanted = (row - row.mean()) / scale[seed]
            torch.testing.assert_close(found[seed][weights[seed] > 0], wanted)
    assert ppo.normalise(advantages, weights, "none") is advantages
    equal = torch.ones(1, 4)
    for kind in ("unbiased", "biased"):
        assert (ppo.normalise(equal, equal / 4, kind) == 0).all()


def test_the_loss_is_the_weighted_sum_of_its_parts():
    group = rollout(small(seeds=2, ent_coef=0.3, vf_coef=0.7))
    total, parts, _ = gradients(group)
    policy, value, entropy, *_, pfo, extra = parts.T
    assert float(total) == pytest.approx(float((policy - 0.3 * entropy + 0.7 * value).sum()))
    assert (pfo == 0).all()
    assert (extra == 0).all()
    assert (entropy <= math.log(2)).all()


# Gradient steps


def by_hand(agent, shared_twice):
    """Return a copy of an agent, and what clips and steps it the plain way."""
    agent = copy.deepcopy(agent)
    for parameter in agent.parameters():
        parameter.data = parameter.data.clone()
    if not shared_twice:
        adam = torch.optim.Adam(agent.parameters(), 3e-4, eps=1e-5)
        return agent, [(list(agent.parameters()), adam)]
    groups = [list(network.parameters()) for network in (agent.actor, agent.critic)]
    return agent, [(group, torch.optim.Adam(group, 3e-4, eps=1e-5)) for group in groups]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradient_steps_are_those_of_plain_torch(shared, twice):
    """With a shared trunk the published code clips and steps it twice, the fixed one once."""
    config = small(shared_trunk=shared, step_trunk_twice=twice, clip_grad_apart=twice)
    group = rollout(config)
    agent, groups = by_hand(group.stack.agents[0], twice)
    batch = group.make_batch()
    for index in range(3):
        total, _ = group.loss(rows_of(batch, torch.arange(index, 100, 3)))
        names = [name for name, _ in agent.named_parameters()]
        leaves = [group.stack.parameters[name] for name in names]
        found = torch.autograd.grad(total, leaves, retain_graph=True)
        for (_, parameter), gradient in zip(agent.named_parameters(), found, strict=True):
            parameter.grad = gradient[0].clone()
        wanted = [
            math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
            for network in (agent.actor, agent.critic)
        ]
        norms = group.step(total)
        np.testing.assert_allclose(norms[0], wanted, rtol=1e-5)
        for parameters, _ in groups:
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        for _, adam in groups:
            adam.step()
        for name, parameter in agent.named_parameters():
            torch.testing.assert_close(
                group.stack.parameters[name][0], parameter, atol=1e-6, rtol=1e-5
            )


def test_the_learning_rate_falls_to_zero():
    config = small(total_steps=4 * 120, learning_rate=8e-4)
    group = Ppo(config)
    rates = [group.iterate()[0]["charts/learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([8e-4, 6e-4, 4e-4, 2e-4])
    group = Ppo(dataclasses.replace(config, anneal_lr=False))
    assert [group.iterate()[0]["charts/learning_rate"] for _ in range(2)] == [8e-4, 8e-4]


def test_updates_end_when_the_policy_has_moved_too_far():
    steps = {}
    for target_kl in (0.0, 1e-6, 1e9):
        group = Ppo(small(target_kl=target_kl, learning_rate=1e-2))
        steps[target_kl] = group.iterate()[0]["losses/updates"]
    assert steps == {0.0: 4, 1e9: 4, 1e-6: 2}  # on the first minibatch nothing has moved yet


# Runs


def read(path):
    """Return the metrics without times, and the last weights: equal runs share both."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in [name for name in line if name.startswith("time/") or name == "charts/SPS"]:
            del line[name]
    last = checkpoints.step_folders(path / "checkpoints")[-1]
    return lines, checkpoints.load(last)


def assert_same_run(first, second):
    (lines, left), (others, right) = read(first), read(second)
    assert json.dumps(lines) == json.dumps(others)  # NaN equals NaN as text
    assert left.weights.keys() == right.weights.keys()
    for name, value in left.weights.items():
        assert torch.equal(value, right.weights[name]), name


RUNS = {
    "cartpole": {"probe": 2},
    "odd_sizes": {"num_envs": 3, "num_steps": 21, "hidden_size": 10, "num_minibatches": 4},
    "gelu": {"activation": "gelu", "num_envs": 1, "num_steps": 37, "hidden_size": 12},
    "shared_trunk": {"shared_trunk": True, "step_trunk_twice": True},
    "hopper": {"env": "Hopper-v5", "source": "gymnasium"},
    "hopper_paper": {
        **training_config("ppo", ["--profile", "paper"]).__dict__,
        **{"num_steps": 48, "num_minibatches": 3, "update_epochs": 2, "probe": 2, "snapshots": 0},
    },
    "pixels": {
        **{"env": CATCH, "env_option": ("size=36",), "num_steps": 24, "activation": "relu"},
        **{"num_envs": 2, "obs_norm": "none"},
    },
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_stacked_seeds_write_the_runs_that_each_would_write_alone(changes, tmp_path):
    if "Hopper" in changes.get("env", ""):
        pytest.importorskip("mujoco")
    fields = {"num_threads": 1, "checkpoint_minutes": 0.0, "runs_dir": str(tmp_path)}
    config = small(**{"seed": 5, "seeds": 3} | changes | fields)
    config = dataclasses.replace(config, seed=5, seeds=3)
    rows = config.num_envs * config.num_steps
    config = dataclasses.replace(config, total_steps=4 * rows)
    paths, stopped = loop.train("ppo", config)
    assert stopped is None
    assert [path.name for path in paths] == ["seed5", "seed6", "seed7"]
    for path, seed in zip(paths, (5, 6, 7), strict=True):
        if seed == 6 and "probe" not in changes:
            continue  # the first and the last tell as much
        (alone,), _ = loop.train("ppo", dataclasses.replace(config, seed=seed, seeds=1))
        assert_same_run(path, alone)
        assert len(read(path)[0]) == 4


def test_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    config = small(total_steps=500, runs_dir=str(tmp_path))
    (first,), _ = loop.train("ppo", config)
    (second,), _ = loop.train("ppo", config)
    (other,), _ = loop.train("ppo", dataclasses.replace(config, seed=2))
    assert_same_run(first, second)
    assert read(first)[0] != read(other)[0]


def test_a_run_tells_what_ran_and_its_metrics_have_the_documented_names(tmp_path):
    config = small(total_steps=500, runs_dir=str(tmp_path))
    (path,), _ = loop.train("ppo", config)
    record = json.loads((path / "config.json").read_text())
    assert record["algorithm"] == "ppo"
    assert record["environment"]["id"] == "CartPole-v1"
    assert record["environment"]["fingerprint"]["source"] == "gymnasium"
    assert path.name.startswith("CartPole-v1__ppo__seed1__")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert set().union(*lines) == {
        "global_step",
        *(f"charts/{name}" for name in ("episodes", "SPS", "learning_rate")),
        *(f"charts/episodic_{name}" for name in ("return", "return_max", "length")),
        *ppo.LOSSES,
        "losses/updates",
        *(f"time/{name}_seconds" for name in ("env", "inference", "learn", "probe")),
    }
    assert any(file.name.startswith("events.out") for file in path.iterdir())


def test_snapshots_are_spread_evenly_from_first_to_last(tmp_path):
    config = small(total_steps=8 * 120, snapshots=5, seeds=2, runs_dir=str(tmp_path))
    paths, _ = loop.train("ppo", config)
    for path in paths:
        files = sorted((path / "snapshots").iterdir())
        steps = [0] + [line["global_step"] for line in read(path)[0]]
        assert [file.name for file in files] == [
            f"step_{steps[iteration]:012d}.safetensors" for iteration in (0, 2, 4, 6, 8)
        ]
        last = read(path)[1].weights
        for name, value in safetensors.torch.load_file(files[-1]).items():
            assert torch.equal(value, last[name])
        first = checkpoints.load(checkpoints.step_folders(path / "checkpoints")[0])
        for name, value in safetensors.torch.load_file(files[0]).items():
            assert torch.equal(value, first.weights[name])


class BrokenRewards(gymnasium.Env):
    """A task whose reward is NaN from the 30th step on."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0 if self.steps < 30 else math.nan, False, False, {}


if "broken/rewards-v0" not in gymnasium.registry:
    gymnasium.register("broken/rewards-v0", entry_point=BrokenRewards)


@pytest.mark.parametrize("seeds", [1, 2])
def test_losses_that_are_no_numbers_end_the_run_in_one_line(tmp_path, capsys, seeds):
    config = small(
        env="broken/rewards-v0",
        seed=7,
        seeds=seeds,
        num_envs=2,
        num_steps=16,
        total_steps=10_000,
        reward_norm="none",
        runs_dir=str(tmp_path),
    )
    with pytest.raises(TrainingError) as caught:
        loop.train("ppo", config)
    said = str(caught.value)
    assert said.startswith("seed 7: losses/")
    assert "is nan in iteration 2;" in said
    checkpoint = said.rpartition("the last good checkpoint is ")[2]
    assert checkpoints.load(tmp_path / checkpoint).global_step == 0
    assert "\n" not in said


def test_the_command_answers_a_broken_run_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--env", "broken/rewards-v0", "--num-steps", "64", "--num-minibatches", "2"]
    assert main(["ppo", *flags, "--reward-norm", "none", "--total-steps", "1000"]) == 1
    assert capsys.readouterr().err.startswith("baselines: seed 1: losses/")


# Learning


def returns(group, last):
    """Train to the end; return the mean return of episodes that ended in the last iterations."""
    ended = []
    for iteration in range(ppo.num_iterations(group.config)):
        group.iterate()
        if iteration >= ppo.num_iterations(group.config) - last:
            ended += [episode[1] for episode in group.collector.ended]
    return float(np.mean(ended))


def test_cartpole_is_solved():
    config = training_config("ppo", ["--profile", "fast", "--env", "CartPole-v1"])
    group = Ppo(dataclasses.replace(config, total_steps=50_000))
    assert returns(group, last=10) >= 475


@pytest.mark.slow
def test_a_game_on_pixels_is_learnt():
    config = small(
        env=CATCH,
        env_option=("size=36",),
        num_envs=16,
        num_steps=44,
        num_minibatches=4,
        update_epochs=4,
        learning_rate=1e-3,
        ent_coef=0.01,
        hidden_size=128,
        activation="relu",
        reward_norm="none",
        total_steps=25_000,
    )
    assert returns(Ppo(config), last=5) >= 0.85  # random play earns -0.4, perfect play 1


@pytest.mark.slow
@pytest.mark.parametrize(("game", "num_actions"), [("Pong", 6), ("Breakout", 4), ("Phoenix", 8)])
def test_atari_runs_as_in_the_paper(tmp_path, game, num_actions):
    pytest.importorskip("ale_py")
    flags = ["--profile", "paper", "--env", f"ALE/{game}-v5"]
    config = dataclasses.replace(
        training_config("ppo", flags),
        total_steps=2048,
        probe=1,
        snapshots=2,
        runs_dir=str(tmp_path),
    )
    (path,), _ = loop.train("ppo", config)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["global_step"] for line in lines] == [1024, 2048]
    assert len(list((path / "snapshots").iterdir())) == 2
    for line in lines:
        assert 0 < line["losses/entropy"] <= math.log(num_actions) + 1e-6
        for name, value in line.items():
            if not name.startswith(("trust_region/ratio_above", "trust_region/ratio_below")) and (
                "excess_ratio" not in name
            ):
                assert math.isfinite(value), name
            if name.startswith("plasticity") and name.split("/")[1].endswith(
                ("rank", "dead_units")
            ):
                assert 0 <= value <= 512, name
