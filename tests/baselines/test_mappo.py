"""The promises of the MAPPO specification, checked by hand or by symmetry."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import TOY

from baselines.config import MappoConfig
from baselines.experience.collect import Clock
from baselines.learners import mappo
from baselines.learners.mappo import Mappo
from baselines.networks.actor_critic import Agent, gumbel_noise
from baselines.networks.network import masked_log_probs
from baselines.networks.normalise import ValueNorm

NETWORKS = pytest.mark.parametrize("network", ["gru", "mlp"])
CRITICS = pytest.mark.parametrize("critic_input", ["state", "obs"])


def small(**changes):
    fields = {"env": TOY, "num_envs": 6, "num_steps": 20, "hidden_size": 16, "num_threads": 1}
    return MappoConfig(**fields | {"num_minibatches": 1} | changes)


def rollout(config, seed=0):
    """Return a learner with its second rollout, and the actor's hidden state before it."""
    learner = Mappo(dataclasses.replace(config, seed=seed))
    agent = learner.network
    # A head with gain 0.01 hides mistakes: make the policy and the values depend on the inputs.
    torch.nn.init.orthogonal_(agent.actor.head.weight, 1.0)
    shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
    for _ in range(2):
        hidden = learner.collector.hidden.clone()
        noise = gumbel_noise(shape, learner.generator)
        values_hidden = learner.critic_hidden
        learner.collector.collect(agent.act, noise, Clock())
        _, learner.critic_hidden = mappo.predict_values(agent, learner.buffer, values_hidden)
    learner.critic_hidden = values_hidden
    return learner, hidden


def whole_batch(config, learner, hidden):
    """Return the minibatch of all envs."""
    start = learner.critic_hidden.clone()
    batch = learner.make_batch(hidden)
    learner.critic_hidden.copy_(start)  # the same rollout may be asked for again
    return mappo.select(learner.network, batch, torch.arange(config.num_envs))


def gradients(config, learner, hidden):
    learner.network.zero_grad()
    total, _ = learner.loss(whole_batch(config, learner, hidden))
    total.backward()
    return {name: p.grad.clone() for name, p in learner.network.named_parameters()}


def assert_same(first, second):
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_masked_actions_have_probability_zero_and_leave_the_entropy():
    logits = torch.tensor([[9.0, 1.0, 2.0, 7.0]])
    mask = torch.tensor([[False, True, True, False]])
    log_probs = masked_log_probs(logits, mask)
    probabilities = log_probs.exp()
    assert probabilities[0, 0] == 0.0
    assert probabilities[0, 3] == 0.0
    entropy = -(probabilities * log_probs).sum()
    p = 1 / (1 + np.exp(1.0))
    assert entropy == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p), rel=1e-6)


def test_masked_actions_are_never_sampled_and_legal_ones_at_their_probability():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([False, True, True, True])
    log_probs = masked_log_probs(torch.tensor([50.0, 0.0, 1.0, 2.0]), mask)
    draws = (log_probs + gumbel_noise((40_000, 4), generator)).argmax(-1)
    rates = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(rates, log_probs.exp(), atol=0.01, rtol=0)
    assert rates[0] == 0


@NETWORKS
@CRITICS
def test_dead_agents_obs_and_action_do_not_change_the_gradient(network, critic_input):
    config = small(network=network, critic_input=critic_input)
    learner, hidden = rollout(config)
    before = gradients(config, learner, hidden)
    dead = ~learner.buffer.alive
    assert dead[:-1].any()
    learner.buffer.obs[dead] = 100 * torch.randn_like(learner.buffer.obs[dead])
    learner.buffer.actions[dead[:-1]] = 2
    learner.buffer.log_probs[dead[:-1]] = -5.0
    assert_same(before, gradients(config, learner, hidden))


@NETWORKS
def test_reset_rows_change_nothing(network):
    config = small(network=network, timeout_is_terminal=True)
    learner, hidden = rollout(config)
    buffer = learner.buffer
    before = gradients(config, learner, hidden)
    reset = ~buffer.valid
    assert reset[1:-1].any()
    # With timeouts terminal, not even V(s_T) of a reset row is read.
    buffer.obs[reset] = 100 * torch.randn_like(buffer.obs[reset])
    buffer.state[reset] = 100 * torch.randn_like(buffer.state[reset])
    buffer.alive[reset] = ~buffer.alive[reset]
    buffer.action_mask[reset] = True
    for tensor in (buffer.actions, buffer.log_probs, buffer.rewards):
        tensor[reset[:-1]] = 1
    buffer.rewards[reset[:-1]] = 1000.0
    assert_same(before, gradients(config, learner, hidden))


def test_reset_rows_are_not_counted():
    learner, _ = rollout(small())
    before = int(learner.buffer.valid[:-1].sum())
    learner = Mappo(small())
    learner.iterate()
    assert learner.global_step == int(learner.buffer.valid[:-1].sum()) < 6 * 20
    assert before < 6 * 20


@NETWORKS
@CRITICS
def test_ratio_is_one_on_the_first_minibatch(network, critic_input):
    config = small(network=network, critic_input=critic_input, agent_id=True)
    learner, hidden = rollout(config)
    if network == "gru":
        assert hidden.abs().max() > 0  # the sequence starts from a stored hidden state
    batch = whole_batch(config, learner, hidden)
    log_probs = mappo.outputs_of(learner.network, "actor", batch)
    ratio = (log_probs.gather(-1, batch.actions[:, None])[:, 0] - batch.log_probs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)
    values = mappo.outputs_of(learner.network, "critic", batch)
    torch.testing.assert_close(values[:, 0], batch.values, atol=1e-5, rtol=0)


def test_critic_hidden_state_carries_over_between_rollouts():
    config = small(num_steps=40)
    long, _ = rollout(config)
    agent, buffer = long.network, long.buffer
    whole, _ = mappo.predict_values(agent, buffer, long.critic_hidden)
    halves, hidden = [], long.critic_hidden
    for start in (0, 20):
        part = type("Part", (), {})()
        for name in ("obs", "state", "alive", "valid"):
            setattr(part, name, getattr(buffer, name)[start : start + 21])
        part.carry = type(buffer).carry.__get__(part)
        values, hidden = mappo.predict_values(agent, part, hidden)
        halves.append(values[:20])
    torch.testing.assert_close(torch.cat(halves), whole[:40], atol=1e-5, rtol=0)


def test_value_norm_is_undone_by_denormalise_and_tracks_the_mean():
    norm = ValueNorm()
    returns = 7 + 3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm.denormalise(norm.normalise(returns)), returns)
    norm.update(returns)
    mean, deviation = norm.statistics()
    assert mean == pytest.approx(float(returns.mean()), rel=1e-5)
    assert deviation == pytest.approx(float(returns.std(correction=0)), rel=1e-4)
    torch.testing.assert_close(norm.denormalise(norm.normalise(returns)), returns)
    norm.update(returns + 2)
    assert norm.statistics()[0] == pytest.approx(float(returns.mean()) + 1, rel=1e-3)
    torch.testing.assert_close(norm.normalise(norm.denormalise(returns)), returns)


def test_ippo_is_mappo_with_the_critic_input_replaced():
    sizes = {"obs_size": 5, "state_size": 5, "num_agents": 1, "num_actions": 3, "hidden_size": 8}
    agents = {}
    for critic_input in ("state", "obs"):
        torch.manual_seed(0)
        agents[critic_input] = Agent(
            **sizes, recurrent=True, critic_input=critic_input, agent_id=False, value_norm=True
        )
    obs = torch.randn(4, 2, 1, 5)
    alive = torch.ones(4, 2, 1, dtype=torch.bool)
    hidden, carry, rows = torch.zeros(2, 8), torch.ones(4, 2, 1), torch.arange(8)
    values = [
        agent.critic.sequence(
            agent.critic_inputs(obs, obs[..., 0, :], alive).flatten(1, 2), hidden, carry, rows
        )[0]
        for agent in agents.values()
    ]
    torch.testing.assert_close(*values)


def test_advantages_are_normalised_over_live_entries_only():
    config = small()
    learner, hidden = rollout(config)
    batch = whole_batch(config, learner, hidden)
    live = learner.buffer.alive[:-1] & learner.buffer.valid[:-1, :, None]
    assert len(batch.advantages) == int(live.sum())
    assert float(batch.advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(batch.advantages.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("network", "critic_input", "options", "steps"),
    [
        ("mlp", "state", (), 12_000),
        ("mlp", "obs", (), 12_000),
        ("gru", "state", ("memory=true",), 40_000),
    ],
)
def test_the_toy_game_is_solved(network, critic_input, options, steps):
    config = small(
        network=network,
        critic_input=critic_input,
        env_option=options,
        num_envs=64,
        num_steps=16,
        hidden_size=32,
        learning_rate=3e-3,
        num_minibatches=2,
        total_steps=steps,
    )
    learner = Mappo(config)
    first = learner.iterate()
    while learner.global_step < steps:
        last = learner.iterate()
    assert first["charts/win_rate"] < 0.5
    assert last["charts/win_rate"] > 0.9


@pytest.mark.parametrize("value_norm_per_minibatch", [True, False])
def test_a_rollout_of_reset_rows_alone_changes_no_weight(value_norm_per_minibatch):
    config = small(
        num_envs=1,
        num_steps=1,
        env_option=("episode_limit=1",),
        value_norm_per_minibatch=value_norm_per_minibatch,
    )
    learner = Mappo(config)
    assert "losses/policy_loss" in learner.iterate()
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    metrics = learner.iterate()
    assert learner.global_step == 1
    assert "losses/policy_loss" not in metrics
    assert_same(before, learner.network.state_dict())
    metrics = learner.iterate()
    assert np.isfinite(list(metrics.values())).all()
    assert all(value.isfinite().all() for value in learner.network.state_dict().values())
