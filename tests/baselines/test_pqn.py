"""Promises of PQN: targets, memory, rows that count."""

import dataclasses

import pytest
import torch
from toy import TOY

from baselines.config import PqnConfig
from baselines.experience.collect import Clock
from baselines.learners.pqn import Pqn
from baselines.learners.value_based import LOSSES, exploration

NETWORKS = pytest.mark.parametrize("network", ["gru", "mlp"])
MIXERS = pytest.mark.parametrize("mixer", ["sum", "none", "monotonic"])


def small(**changes):
    fields = {"env": TOY, "num_envs": 6, "num_steps": 12, "hidden_size": 16, "num_threads": 1}
    return PqnConfig(**fields | {"num_minibatches": 1} | changes)


def rollout(config, number=2):
    """Return a learner with its second rollout, and the values its agents had while acting."""
    learner = Pqn(config)
    agent, buffer, acted = learner.agent, learner.buffer, []

    def act(obs, mask, memory, noise):
        size = agent.network.memory_size
        inputs = agent.inputs(obs, memory[..., size:]).flatten(0, 1)
        acted.append(agent.network.step(inputs, memory[..., :size].flatten(0, 1))[0])
        return agent.act(obs, mask, memory, noise)

    shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
    for _ in range(number):
        acted.clear()
        buffer.repeat_end()
        noise = exploration(shape, 0.5, learner.generator)
        learner.collector.collect(act, noise, Clock())
    return learner, torch.stack(acted).view(shape)


def loss_of(learner, batch):
    return learner.loss(batch, learner.run(batch))


def whole(config, learner):
    return learner.select(torch.arange(config.num_envs))


def learns(batch):
    """Return (num_rows - 1, envs) flags of the rows that count."""
    flags = torch.zeros(batch.rows.num_rows, dtype=torch.bool)
    flags[batch.rows.index] = True
    return flags.view(batch.done.shape)


@NETWORKS
@pytest.mark.parametrize("window", [0, 4, 11])
def test_values_in_the_update_are_those_that_agents_acted_on(network, window):
    config = small(network=network, memory_window=window)
    learner, acted = rollout(config)
    batch = whole(config, learner)
    values = learner.values(batch).view(batch.action_mask.shape)
    counts = learns(batch)[window:]
    torch.testing.assert_close(values[window:-1][counts], acted[counts], atol=1e-5, rtol=1e-5)


def test_the_first_rollout_has_no_history_to_learn_from():
    config = small(memory_window=4)
    learner, _ = rollout(config, number=1)
    assert not learns(whole(config, learner))[:4].any()
    assert learns(whole(config, learner))[4].all()


@MIXERS
@torch.no_grad()
def test_targets_are_one_step_for_lambda_0_and_returns_for_lambda_1(mixer):
    config = small(mixer=mixer, td_lambda=0.0, memory_window=0, reward_scale=2.0)
    learner, _ = rollout(config)
    batch = whole(config, learner)
    values = learner.values(batch).view(batch.action_mask.shape)
    best = values.masked_fill(~batch.action_mask, -torch.inf).amax(-1)
    joint = learner.network.mixer(best.flatten(0, 1), batch.state.flatten(0, 1))
    joint = joint.view(*best.shape[:2], -1)
    one_step = 2.0 * batch.rewards.unsqueeze(-1) + 0.99 * joint[1:] * ~batch.terminated.unsqueeze(
        -1
    )
    found = learner.td_targets(batch, values)
    torch.testing.assert_close(found[learns(batch)], one_step[learns(batch)])

    learner.config = dataclasses.replace(config, td_lambda=1.0)
    found = learner.td_targets(batch, values)
    env, step = 0, 0
    while not (learns(batch)[step, env] and batch.done[step:, env].any()):
        env += 1
    end = step + int(batch.done[step:, env].int().argmax())
    discounts = 0.99 ** torch.arange(end - step + 1)
    wanted = 2.0 * (discounts * batch.rewards[step : end + 1, env]).sum()
    if not batch.terminated[end, env]:
        wanted = wanted + 0.99 ** (end - step + 1) * joint[end + 1, env]
    torch.testing.assert_close(found[step, env], wanted.expand_as(found[step, env]))


@NETWORKS
@MIXERS
def test_reset_rows_and_history_change_no_gradient(network, mixer):
    config = small(network=network, mixer=mixer)
    learner, _ = rollout(config)
    buffer = learner.buffer

    def gradients():
        learner.network.zero_grad()
        loss_of(learner, whole(config, learner))[0].backward()
        return [p.grad.clone() for p in learner.network.parameters()]

    before, reset = gradients(), ~buffer.valid[:-1]
    assert reset[config.memory_window :].any()
    buffer.actions[reset] = 1
    buffer.rewards[reset] = 1000.0
    buffer.rewards[: config.memory_window] = 1000.0
    for old, new in zip(before, gradients(), strict=True):
        assert torch.equal(old, new)


def test_the_network_that_learns_makes_its_own_targets():
    config = small(memory_window=0, td_lambda=0.0, mixer="sum")
    learner, _ = rollout(config)
    batch = whole(config, learner)
    first = loss_of(learner, batch)[1][LOSSES.index("losses/target")]
    with torch.no_grad():
        learner.network.agent.network.head.bias += 1.0
    second = loss_of(learner, batch)[1][LOSSES.index("losses/target")]
    share = (~batch.terminated[learns(batch)]).float().mean()
    assert float(second - first) == pytest.approx(0.99 * 3 * float(share), rel=1e-4)


@pytest.mark.parametrize(("network", "mixer"), [("gru", "sum"), ("mlp", "monotonic")])
def test_the_toy_game_is_solved(network, mixer):
    config = small(
        network=network,
        mixer=mixer,
        env_option=("episode_limit=30",),
        num_envs=64,
        num_steps=16,
        hidden_size=32,
        learning_rate=3e-3,
        max_grad_norm=0.5,
        update_epochs=4,
        num_minibatches=4,
        epsilon_steps=20_000,
        total_steps=60_000,
    )
    learner = Pqn(config)
    rates = []
    while learner.global_step < config.total_steps:
        rates.append(learner.iterate().get("charts/win_rate", 0.0))
    assert rates[1] < 0.3
    assert sum(rates[-5:]) / 5 > 0.9
