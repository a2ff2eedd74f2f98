"""Promises of QMIX, VDN and IQL, checked by hand and against loops over episodes and steps."""

import dataclasses

import numpy as np
import pytest
import torch
from small_runs import config, learner_of, train

from baselines.algorithms import ALGORITHMS
from baselines.cli import main, training_config
from baselines.config import QmixConfig
from baselines.errors import UsageError
from baselines.experience.battles import make_battles
from baselines.experience.collect import Clock
from baselines.learners import mappo, qmix
from baselines.networks.action_values import ValueAgent

MIXERS = pytest.mark.parametrize("mixer", ["monotonic", "sum", "none"])
NETWORKS = pytest.mark.parametrize("network", ["gru", "mlp"])


def played(steps=600, **changes):
    """Return a learner with episodes in its replay, and a target unlike its network."""
    learner = learner_of("qmix", **changes)
    while learner.global_step < steps:
        learner.collect(0.5, Clock())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a head with small weights hides mistakes
        for parameter in [*learner.network.parameters(), *learner.target.parameters()]:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return learner


def some_slots(learner, count=8):
    """Return slots of episodes, longest first; they differ in length and in how they ended."""
    replay = learner.replay
    slots = np.array(replay.ended)[:count]
    assert len(set(replay.length[slots])) > 2
    assert len(set(replay.terminated[slots])) == 2
    return slots[np.argsort(-replay.length[slots], kind="stable")]


def stepped(team, episode):
    """Return (rows, num_agents, num_actions) values of one episode, step by step."""
    hidden, values = team.agent.network.initial_hidden(3), []
    for row in range(len(episode.obs)):
        last = torch.zeros(3, 4)
        if row > 0:
            last = torch.eye(4)[episode.actions[row - 1]]
        inputs = torch.cat([episode.obs[row], last, torch.eye(3)], -1)
        found, hidden = team.agent.network.step(inputs, hidden)
        values.append(found)
    return torch.stack(values)


def errors_by_hand(learner, slot):
    """Return half the squared errors of one episode: (steps, 1), or (steps, num_agents)."""
    config, episode = learner.config, learner.replay.batch(np.array([slot]))
    online = stepped(learner.network, episode)
    with torch.no_grad():
        target = stepped(learner.target, episode)
        following = []
        for row in range(len(online)):
            best = []
            for agent in range(3):
                legal = episode.action_mask[row, agent].nonzero()[:, 0]
                chooser = online if config.double_q else target
                action = legal[chooser[row, agent, legal].argmax()]
                best.append(target[row, agent, action])
            state = episode.state[row : row + 1]
            following.append(learner.target.mixer(torch.stack(best)[None], state)[0])
        ends = episode.terminated[-1] or config.timeout_is_terminal
        result = torch.zeros_like(following[0]) if ends else following[-1]
        returns = []
        for step in reversed(range(len(episode.rewards))):
            if step < len(episode.rewards) - 1:
                result = torch.lerp(following[step + 1], result, config.td_lambda)
            result = config.reward_scale * episode.rewards[step] + config.gamma * result
            returns.insert(0, result)
    joint = []
    for step, actions in enumerate(episode.actions):
        chosen = online[step].gather(-1, actions[:, None])[:, 0]
        joint.append(learner.network.mixer(chosen[None], episode.state[step : step + 1])[0])
    return 0.5 * (torch.stack(joint) - torch.stack(returns)).square()


def gradients(learner, loss):
    learner.network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in learner.network.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixer": "sum"},
        {"mixer": "none"},
        {"network": "mlp"},
        {"encoder": "mlp", "reward_scale": 3.0},
        {"td_lambda": 0.0},
        {"td_lambda": 1.0},
        {"double_q": False},
        {"timeout_is_terminal": True},
    ],
    ids=str,
)
def test_loss_and_gradients_are_the_mean_over_the_steps_of_single_episodes(changes):
    """Whatever lengths are packed together: nothing is padded, nothing is masked."""
    learner = played(**changes)
    slots = some_slots(learner)
    total, parts = learner.loss(learner.replay.batch(slots))
    wanted = torch.cat([errors_by_hand(learner, slot).flatten() for slot in slots]).mean()
    torch.testing.assert_close(total, wanted, atol=1e-5, rtol=1e-5)
    assert parts[0] == total
    expected = gradients(learner, wanted)
    for name, gradient in gradients(learner, total).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4, msg=name)


@NETWORKS
@pytest.mark.parametrize("encoder", ["plain", "mlp"])
def test_values_in_the_update_are_those_that_agents_acted_on(network, encoder):
    learner = played(network=network, encoder=encoder)
    agent = learner.network.agent
    for slot in some_slots(learner):
        episode = learner.replay.batch(np.array([slot]))
        packed = qmix.values_of(agent, episode).view(episode.action_mask.shape)
        memory, size = agent.initial_hidden(1), agent.network.memory_size
        for step, actions in enumerate(episode.actions):
            inputs = agent.inputs(episode.obs[step : step + 1], memory[..., size:])
            values, _ = agent.network.step(inputs[0], memory[0, :, :size])
            torch.testing.assert_close(packed[step], values, atol=1e-5, rtol=0)
            told = torch.eye(4)[actions][None]  # scores that make it choose what was chosen then
            mask = episode.action_mask[step : step + 1]
            acted, _, memory = agent.act(episode.obs[step : step + 1], mask, memory, told)
            assert torch.equal(acted[0], actions)


@NETWORKS
def test_an_episodes_values_do_not_depend_on_the_others_in_the_batch(network):
    learner = played(network=network)
    slots = some_slots(learner)
    batch = learner.replay.batch(slots)
    together = qmix.values_of(learner.network.agent, batch).view(batch.action_mask.shape)
    for episode, slot in enumerate(slots):
        alone = qmix.values_of(learner.network.agent, learner.replay.batch(np.array([slot])))
        found = together[batch.episode == episode]
        torch.testing.assert_close(found, alone.view_as(found), atol=1e-5, rtol=0)


# --- Targets ------------------------------------------------------------------------------------


def targets_of(terminated, **changes):
    """Return the TD targets of an episode of three steps: VDN, gamma 0.5, rewards 1, 2, 3.

    The learning network prefers action 2 everywhere, the target action 3. The target values
    action 2 of each of the three agents at 10 times the row, action 3 at 1000.
    """
    learner = played(mixer="sum", gamma=0.5, **changes)
    slot = next(slot for slot in learner.replay.ended if learner.replay.length[slot] == 3)
    learner.replay.terminated[slot] = terminated
    episode = learner.replay.batch(np.array([slot]))
    episode.rewards[:] = torch.tensor([1.0, 2.0, 3.0])
    episode = dataclasses.replace(episode, action_mask=torch.ones_like(episode.action_mask))
    online, target = torch.zeros(4, 3, 4), torch.zeros(4, 3, 4)
    online[..., 2] = 1.0
    target[..., 2] = 10.0 * torch.arange(4.0)[:, None]
    target[..., 3] = 1000.0
    made = learner.td_targets(episode, online.flatten(0, 1), target.flatten(0, 1))
    return made[:, 0].tolist()


def test_td_0_targets_are_one_step_by_double_q():
    # r + 0.5 * 3 agents * 10 * the next row; nothing follows the terminated step
    assert targets_of(terminated=True, td_lambda=0.0) == [1 + 15, 2 + 30, 3]


def test_without_double_q_the_target_network_chooses():
    assert targets_of(terminated=True, td_lambda=0.0, double_q=False) == [1501, 1502, 3]


def test_td_1_targets_are_the_discounted_returns():
    assert targets_of(terminated=True, td_lambda=1.0) == [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3]


@pytest.mark.parametrize("td_lambda", [0.0, 1.0])
def test_time_limits_bootstrap_unless_told_otherwise(td_lambda):
    assert targets_of(terminated=False, td_lambda=td_lambda)[-1] == 3 + 45
    kept = targets_of(terminated=False, td_lambda=td_lambda, timeout_is_terminal=True)
    assert kept == targets_of(terminated=True, td_lambda=td_lambda)


@pytest.mark.parametrize(("mixer", "width"), [("monotonic", 1), ("sum", 1), ("none", 3)])
@torch.no_grad()
def test_a_team_has_one_value_and_independent_learners_one_each(mixer, width):
    learner = played(mixer=mixer)
    batch = learner.replay.batch(some_slots(learner))
    values = qmix.values_of(learner.network.agent, batch)
    assert learner.td_targets(batch, values, values).shape == (len(batch.rewards), width)


@torch.no_grad()
def test_forbidden_actions_are_in_no_target():
    learner = played(td_lambda=0.0)
    batch = learner.replay.batch(some_slots(learner))
    values = qmix.values_of(learner.network.agent, batch)
    forbidden = ~batch.action_mask.flatten(0, 1)
    before = learner.td_targets(batch, values, values)
    high = values.masked_fill(forbidden, 1e6)
    assert torch.equal(before, learner.td_targets(batch, high, high))


# --- Iterations ----------------------------------------------------------------------------------


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(("num_envs", "every"), [(1, 7), (8, 30)])
def test_the_target_becomes_a_copy_exactly_when_enough_episodes_have_passed(num_envs, every):
    learner = learner_of("qmix", num_envs=num_envs, target_update_episodes=every)
    since, copies, before = 0, 0, copy_of(learner.target)
    assert same(before, learner.network.state_dict())
    for _ in range(30):
        since += learner.iterate()["charts/episodes"]
        now = copy_of(learner.target)
        if since >= every:
            assert same(now, learner.network.state_dict())
            since, copies = 0, copies + 1
        else:
            assert same(now, before)
        before = now
    assert copies >= 4
    assert not same(learner.network.state_dict(), learner.target.state_dict())
    assert not any(parameter.requires_grad for parameter in learner.target.parameters())


def test_an_iteration_finishes_its_episodes_and_takes_its_gradient_steps():
    learner = learner_of("qmix", rollout_episodes=5, updates_per_rollout=3)
    steps = learner.optimizer.state
    while not steps:  # nothing is learnt before a batch of episodes has ended
        assert len(learner.replay.ended) < 8
        before = copy_of(learner.network)
        metrics = learner.iterate()
        assert "losses/td_loss" in metrics or same(before, learner.network.state_dict())
    first = int(next(iter(steps.values()))["step"])
    assert first == 3
    metrics = learner.iterate()
    assert 5 <= metrics["charts/episodes"] < 5 + 8
    assert int(next(iter(steps.values()))["step"]) == 6
    assert metrics["charts/epsilon"] < 1


def test_steps_are_counted_without_reset_rows():
    learner = learner_of("qmix")
    for _ in range(4):
        learner.iterate()
    replay = learner.replay
    assert len(replay.ended) == learner.episodes < replay.capacity
    assert learner.global_step == replay.length[[*replay.ended, *replay.open]].sum()


@pytest.mark.parametrize(
    ("mixer", "network", "options"),
    [
        ("monotonic", "mlp", ("episode_limit=30",)),
        ("sum", "gru", ("episode_limit=30", "memory=true")),
    ],
)
def test_the_toy_game_is_solved(mixer, network, options):
    learner = learner_of(
        "qmix",
        mixer=mixer,
        network=network,
        env_option=options,
        num_envs=16,
        hidden_size=32,
        buffer_episodes=500,
        batch_episodes=32,
        updates_per_rollout=8,
        target_update_episodes=64,
        epsilon_steps=8000,
        epsilon_end=0.02,
    )
    rates = []
    while learner.global_step < 20_000:
        rates.append(learner.iterate()["charts/win_rate"])
    assert rates[0] < 0.3
    assert sum(rates[-5:]) / 5 > 0.9


# --- Commands ------------------------------------------------------------------------------------


def test_the_papers_profile_has_the_published_numbers():
    """benellis3/pymarl2's qmix.yaml and the flags of SMACv2's RUNNING_EXPERIMENTS.md."""
    arguments = ["--profile", "smacv2_paper"]
    made = training_config("qmix", arguments)
    assert (made.learning_rate, made.anneal_lr, made.max_grad_norm) == (1e-3, False, 10.0)
    assert (made.num_envs, made.batch_episodes, made.buffer_episodes) == (8, 128, 5000)
    assert (made.rollout_episodes, made.updates_per_rollout) == (0, 1)
    assert (made.td_lambda, made.gamma, made.double_q) == (0.4, 0.99, True)
    assert (made.epsilon_start, made.epsilon_end, made.epsilon_steps) == (1.0, 0.05, 100_000)
    assert (made.mixer, made.mixer_size, made.hypernet_size) == ("monotonic", 32, 64)
    assert (made.network, made.encoder, made.hidden_size) == ("gru", "plain", 64)
    assert (made.last_action, made.agent_id) == (True, True)
    assert (made.target_update_episodes, made.timeout_is_terminal) == (200, False)


def test_mappos_papers_profile_has_the_published_numbers():
    """benellis3/mappo and the flags of SMACv2's RUNNING_EXPERIMENTS.md."""
    arguments = ["--profile=smacv2_paper"]
    made = training_config("mappo", arguments)
    assert (made.num_envs, made.learning_rate, made.anneal_lr) == (8, 5e-4, False)
    assert (made.clip_coef, made.clip_vloss, made.ent_coef) == (0.1, False, 0.0)
    assert (made.update_epochs, made.num_minibatches, made.max_grad_norm) == (10, 1, 10.0)
    assert (made.gamma, made.gae_lambda, made.value_norm) == (0.99, 0.99, False)
    assert (made.critic_input, made.agent_id, made.hidden_size) == ("state", True, 64)


@pytest.mark.parametrize("command", ["qmix", "pqn", "mappo"])
def test_open_loop_shows_agents_the_time_and_who_they_are_alone(command):
    made = dataclasses.replace(
        ALGORITHMS[command].config(), env="smacv2/terran_5_vs_5", open_loop=True, num_envs=16
    )
    battles = make_battles(made)
    battles.reset(5)
    generator = np.random.default_rng(0)
    for step in range(20):
        obs, mask = battles.observe().obs, battles.observe().action_mask
        assert obs.shape == (16, 5, 1)
        np.testing.assert_allclose(obs, step / 200, atol=1e-6)
        noise = torch.from_numpy(generator.random(mask.shape))
        battles.step((noise * mask).argmax(-1))
    obs = battles.observe().obs
    if command == "mappo":
        inputs = mappo.make_agent(made, battles.sizes).actor_inputs(obs)
    else:  # not even its last action, which tells what was in range
        inputs = ValueAgent(made, battles.sizes).inputs(obs, torch.rand(mask.shape))
    assert torch.equal(inputs, torch.cat([obs, torch.eye(5).expand(16, 5, 5)], -1))
    battles.close()


def test_a_policy_of_values_cannot_be_sampled_from(tmp_path, capsys):
    (path,), _ = train("qmix", config("qmix", tmp_path, total_steps=100))
    capsys.readouterr()
    assert main(["evaluate", str(path), "--episodes", "8", "--stochastic"]) == 2
    assert capsys.readouterr().err == (
        "baselines: --stochastic: qmix has values, no policy to sample from\n"
    )
    assert main(["evaluate", str(path), "--episodes", "8"]) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"buffer_episodes": 63}, "buffer_episodes"),  # below a batch of 64
        ({"batch_episodes": 0}, "batch_episodes"),
        ({"updates_per_rollout": 0}, "updates_per_rollout"),
        ({"td_lambda": 1.5}, "td_lambda"),
        ({"epsilon_end": -0.1}, "epsilon_end"),
        ({"mixer_size": 0}, "mixer_size"),
    ],
)
def test_values_that_no_run_could_use_get_one_line(changes, words):
    with pytest.raises(UsageError) as caught:
        QmixConfig(**changes)
    assert words.replace("_", "-") in str(caught.value)
    assert "\n" not in str(caught.value)
