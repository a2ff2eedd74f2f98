"""How agents choose by their values: legal, at the rate of exploration, with their own memory."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from small_runs import config, learner_of

from baselines.learners.value_based import epsilon_at, exploration
from baselines.networks.action_values import mask_values

NETWORKS = pytest.mark.parametrize("network", ["gru", "mlp"])


def agent_of(**changes):
    agent = learner_of("qmix", **changes).network.agent
    torch.nn.init.orthogonal_(agent.network.head.weight)  # clear preferences
    return agent


AGENT = agent_of()


@settings(max_examples=50)
@given(
    masks=st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=6),
    epsilon=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_forbidden_actions_are_never_taken(masks, epsilon, seed):
    num_envs = len(masks) // 3
    mask = torch.tensor(masks[: 3 * num_envs]).view(num_envs, 3, 4)
    generator = torch.Generator().manual_seed(seed)
    obs = 100 * torch.randn(num_envs, 3, 8, generator=generator)
    noise = exploration((num_envs, 3, 4), epsilon, generator)
    actions, _, _ = AGENT.act(obs, mask, AGENT.initial_hidden(num_envs), noise)
    assert mask.gather(-1, actions.unsqueeze(-1)).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_agents_explore_at_the_rate_and_uniformly_over_legal_actions(epsilon):
    num_envs = 20_000
    mask = torch.tensor([[True, True, False, True]] * 3).expand(num_envs, 3, 4)
    obs = torch.rand(1, 3, 8).expand(num_envs, 3, 8)
    memory = AGENT.initial_hidden(num_envs)
    greedy, _, _ = AGENT.act(obs[:1], mask[:1], memory[:1])
    noise = exploration(mask.shape, epsilon, torch.Generator().manual_seed(0))
    actions, _, _ = AGENT.act(obs, mask, memory, noise)
    for agent in range(3):
        rates = torch.bincount(actions[:, agent], minlength=4) / num_envs
        wanted = epsilon / 3 * mask[0, agent].float()
        wanted[greedy[0, agent]] += 1 - epsilon
        torch.testing.assert_close(rates, wanted, atol=0.015, rtol=0)
    if epsilon == 0.3:  # each agent for itself: all three explore in 0.3 ** 3 of the steps
        explores = (noise >= 0).all(-1)
        assert float(explores.all(-1).float().mean()) == pytest.approx(0.027, abs=0.005)


def test_without_noise_agents_are_greedy():
    mask = torch.ones(5, 3, 4, dtype=torch.bool)
    obs, memory = torch.rand(5, 3, 8), torch.rand(5, 3, AGENT.memory_size)
    actions, log_probs, _ = AGENT.act(obs, mask, memory)
    inputs = AGENT.inputs(obs, memory[..., 16:]).flatten(0, 1)
    values, _ = AGENT.network.step(inputs, memory[..., :16].flatten(0, 1))
    assert torch.equal(actions, values.view(5, 3, 4).argmax(-1))
    assert log_probs is None


@NETWORKS
def test_memory_holds_the_last_action_and_starts_as_zeros(network):
    agent = agent_of(network=network)
    size = agent.network.memory_size
    memory = agent.initial_hidden(2)
    assert memory.shape == (2, 3, size + 4)
    assert not memory.any()
    actions, _, after = agent.act(
        torch.rand(2, 3, 8), torch.ones(2, 3, 4, dtype=torch.bool), memory
    )
    assert torch.equal(after[..., size:], torch.eye(4)[actions])


def test_no_action_has_a_one_hot_of_zeros():
    assert AGENT.one_hot(torch.tensor([-1, 0, 3])).tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]


@pytest.mark.parametrize("last_action", [True, False])
@pytest.mark.parametrize("agent_id", [True, False])
def test_agents_see_their_last_action_and_who_they_are_where_asked(last_action, agent_id):
    agent = agent_of(last_action=last_action, agent_id=agent_id)
    obs, actions = torch.rand(2, 3, 8), torch.tensor([[0, 1, 2], [3, 2, 1]])
    parts = [obs]
    parts += [torch.eye(4)[actions]] if last_action else []
    parts += [torch.eye(3).expand(2, 3, 3)] if agent_id else []
    seen = agent.inputs(obs, agent.one_hot(actions))
    assert torch.equal(seen, torch.cat(parts, -1))
    assert agent.memory_size == 16 + 4 * last_action


def test_masked_values_are_below_all_others():
    values = torch.tensor([-1e9, 5.0, 0.0])
    masked = mask_values(values, torch.tensor([True, False, True]))
    assert masked.argmax() == 2
    assert masked[[0, 2]].tolist() == [-1e9, 0.0]
    assert masked[1] < -1e9


def test_exploration_falls_linearly_and_stays():
    made = config("qmix", "", epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=1000)
    rates = [epsilon_at(made, step) for step in (0, 250, 1000, 10**9)]
    assert rates == pytest.approx([1.0, 0.8, 0.2, 0.2])
    assert epsilon_at(config("qmix", "", epsilon_steps=0), 0) == pytest.approx(0.05)
