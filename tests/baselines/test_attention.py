"""Networks that read entities: what their order may not change, and what goes along with it."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines.config import MappoConfig, PqnConfig, QmixConfig
from baselines.errors import UsageError
from baselines.learners.mappo import Mappo
from baselines.learners.pqn import Pqn
from baselines.learners.qmix import Qmix
from baselines.networks.action_values import make_agent_network
from baselines.networks.actor_critic import Agent
from baselines.networks.entities import state_entities
from baselines.networks.network import Network
from baselines.runs import state
from smacv2.layout import Layout
from smacv2.scenario import load_scenario

SCENARIOS = (
    *("terran_5_vs_5", "protoss_5_vs_5", "zerg_5_vs_5"),
    *("terran_10_vs_11", "terran_5_vs_5_conic", "terran_6_vs_5_epo_05"),
)
HEALER = "medivac"


@functools.cache
def layout_of(name, last_actions=False):
    scenario = load_scenario(name)
    options = scenario.options.replace(obs_last_action=last_actions)
    return Layout.of(scenario, options)


@dataclasses.dataclass
class Moment:
    """A random moment of a battle, by unit; rows of what is not seen are 0."""

    layout: Layout
    agent: int  # who looks
    kinds: np.ndarray  # (num_agents,) unit types
    own: np.ndarray  # what else it sees
    enemies: np.ndarray  # (num_enemies, width)
    allies: np.ndarray  # (num_agents, width) without unit types and last actions
    seen: np.ndarray  # (num_agents,)
    actions: np.ndarray  # (num_agents,) last ones, of targets by unit
    reach: np.ndarray  # (targets,) can be shot or healed, by unit

    @classmethod
    def draw(cls, layout, seed):
        rng = np.random.default_rng(seed)
        agents, enemies, targets = layout.num_agents, layout.num_enemies, num_targets(layout)
        kinds = rng.integers(0, len(layout.unit_types), agents)
        seen_enemies = rng.random((enemies, 1)) < 0.7
        moment = cls(
            layout,
            agent=int(rng.integers(agents)),
            kinds=kinds,
            own=rng.normal(size=layout.obs_move.size + layout.obs_own.size),
            enemies=rng.normal(size=(enemies, layout.obs_enemies.width)) * seen_enemies,
            allies=rng.normal(size=(agents, layout.obs_allies.width)),
            seen=rng.random(agents) < 0.7,
            actions=rng.integers(0, layout.num_actions, agents),
            reach=rng.random(targets) < 0.5,
        )
        for agent in range(agents):
            limit = agents if moment.heals(agent) else enemies
            basic = layout.num_actions_no_attack
            moment.actions[agent] = min(moment.actions[agent], basic + limit - 1)
        shown = enemies if enemies >= agents or not moment.heals(moment.agent) else 0
        moment.reach[shown:] = False  # an ally beyond the last enemy has no column
        return moment

    def with_changed(self, team, unit):
        features = getattr(self, team).copy()
        features[unit] += 1.0
        return dataclasses.replace(self, **{team: features})

    def heals(self, agent):
        return self.layout.unit_types[self.kinds[agent]] == HEALER

    def action(self, agent, enemy_ids, agent_ids):
        basic = self.layout.num_actions_no_attack
        action = self.actions[agent]
        if action < basic:
            return action
        return basic + (agent_ids if self.heals(agent) else enemy_ids)[action - basic]

    def inputs(self, enemy_ids, agent_ids, last_action=False):
        """The observation if enemy j is number enemy_ids[j], and agent i agent_ids[i]."""
        layout = self.layout
        obs = np.zeros(layout.obs_size)
        me, types = agent_ids[self.agent], len(layout.unit_types)
        block = layout.obs_enemies
        rows = obs[block.offset : block.end].reshape(block.rows, block.width)
        rows[enemy_ids] = self.enemies
        rows[:, 0] = 0
        ids = agent_ids if self.heals(self.agent) else enemy_ids
        for target, reached in enumerate(self.reach[: len(ids)]):
            if ids[target] < len(rows):
                rows[ids[target], 0] = reached
        block = layout.obs_allies
        rows = obs[block.offset : block.end].reshape(block.rows, block.width)
        features = block.width - layout.num_actions * has_last_actions(layout)
        for ally in set(range(layout.num_agents)) - {self.agent}:
            if self.seen[ally]:
                row = rows[agent_ids[ally] - (agent_ids[ally] > me)]
                row[:features] = self.allies[ally, :features]
                row[features - types : features] = np.arange(types) == self.kinds[ally]
                if has_last_actions(layout):
                    row[features + self.action(ally, enemy_ids, agent_ids)] = 1
        block = layout.obs_own
        obs[: layout.obs_move.size] = self.own[: layout.obs_move.size]
        obs[block.offset : block.end] = self.own[layout.obs_move.size :]
        obs[block.end - types : block.end] = np.arange(types) == self.kinds[self.agent]
        action = np.arange(layout.num_actions) == self.action(self.agent, enemy_ids, agent_ids)
        identity = np.arange(layout.num_agents) == me
        return np.concatenate([obs, action, identity] if last_action else [obs, identity])

    def state(self, enemy_ids, agent_ids):
        layout, types = self.layout, len(self.layout.unit_types)
        state = np.zeros(layout.state_size)
        for agent in np.flatnonzero(self.seen):
            start = layout.state_allies.offset + agent_ids[agent] * layout.state_allies.width
            row = state[start : start + layout.state_allies.width]
            row[:] = np.resize(self.allies[agent], len(row))
            row[-types:] = np.arange(types) == self.kinds[agent]
            start = layout.state_last_actions.offset + agent_ids[agent] * layout.num_actions
            state[start + self.action(agent, enemy_ids, agent_ids)] = 1
        for enemy, features in enumerate(self.enemies):
            start = layout.state_enemies.offset + enemy_ids[enemy] * layout.state_enemies.width
            row = state[start : start + layout.state_enemies.width]
            row[:] = np.resize(features, len(row))
        return state


def num_targets(layout):
    return layout.num_actions - layout.num_actions_no_attack


def has_last_actions(layout):
    return "last_action" in layout.obs_allies.row[-1]


@dataclasses.dataclass
class Sizes:
    layout: Layout

    def __getattr__(self, name):
        return getattr(self.layout, name)


def randomised(network):
    """Weights of equal size everywhere: nothing is hidden by a small gain."""
    torch.manual_seed(3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double()


@functools.cache
def agent_network(layout, last_action, recurrent=True):
    return randomised(
        make_agent_network(
            Sizes(layout),
            hidden_size=24,
            recurrent=recurrent,
            encoder="attention",
            last_action=last_action,
            agent_id=True,
        )
    )


@functools.cache
def mappo_agent(layout, critic_input):
    return randomised(
        Agent(
            obs_size=layout.obs_size,
            state_size=layout.state_size,
            num_agents=layout.num_agents,
            num_actions=layout.num_actions,
            hidden_size=24,
            recurrent=True,
            critic_input=critic_input,
            agent_id=False,
            value_norm=True,
            encoder="attention",
            layout=layout,
        )
    )


def run(network, *inputs):
    batch = torch.as_tensor(np.stack(inputs))
    hidden = torch.linspace(-1, 1, network.memory_size, dtype=batch.dtype)
    return network.step(batch, hidden.expand(len(batch), -1))


def orders(layout, seed):
    rng = np.random.default_rng(seed)
    straight = np.arange(layout.num_enemies), np.arange(layout.num_agents)
    return straight, (rng.permutation(layout.num_enemies), rng.permutation(layout.num_agents))


@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("last_actions", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_units_moves_the_values_of_targets_and_changes_nothing_else(
    name, last_actions, last_action, seed
):
    layout = layout_of(name, last_actions)
    network, moment = agent_network(layout, last_action), Moment.draw(layout, seed)
    straight, mixed = orders(layout, seed)
    views = (moment.inputs(*order, last_action) for order in (straight, mixed))
    (before, after), hidden = run(network, *views)
    basic = layout.num_actions_no_attack
    targets = mixed[1] if moment.heals(moment.agent) else mixed[0]
    torch.testing.assert_close(hidden[0], hidden[1])
    torch.testing.assert_close(after[:basic], before[:basic])
    torch.testing.assert_close(after[basic:][targets], before[basic:][: len(targets)])


@pytest.mark.parametrize("critic_input", ["state", "obs"])
@pytest.mark.parametrize("name", SCENARIOS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_units_does_not_change_the_critic(name, critic_input, seed):
    layout = layout_of(name)
    critic, moment = mappo_agent(layout, critic_input).critic, Moment.draw(layout, seed)
    view = moment.state if critic_input == "state" else moment.inputs
    (before, after), _ = run(critic, *(view(*order) for order in orders(layout, seed)))
    torch.testing.assert_close(after, before)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_seen_unit_matters(name, seed):
    """Invariance alone would hold for a network that is blind."""
    layout = layout_of(name)
    network, moment = agent_network(layout, True), Moment.draw(layout, seed)
    straight, _ = orders(layout, 0)
    others = moment.seen & (np.arange(layout.num_agents) != moment.agent)
    views = [moment.inputs(*straight, True)]
    for team, seen in (("enemies", moment.enemies.any(1)), ("allies", others)):
        for unit in np.flatnonzero(seen):
            views.append(moment.with_changed(team, unit).inputs(*straight, True))
    _, hidden = run(network, *views)
    assert ((hidden[1:] - hidden[0]).abs().amax(1) > 1e-9).all()


def test_a_moment_without_any_unit_is_as_the_own_features_alone():
    layout = layout_of("terran_5_vs_5")
    attention = agent_network(layout, False).attention
    moment = Moment.draw(layout, 0)
    moment.enemies[:], moment.seen[:] = 0, False
    (inputs,) = torch.as_tensor(moment.inputs(*orders(layout, 0)[0])[None])
    own = inputs[attention.own_columns] @ attention.own_weight + attention.own_bias
    torch.testing.assert_close(attention(inputs[None])[0], own.relu())


def test_a_healers_targets_are_allies_and_a_fighters_are_enemies():
    layout = layout_of("terran_5_vs_5")
    network, basic = agent_network(layout, False), layout.num_actions_no_attack
    straight, _ = orders(layout, 0)
    for kind in layout.unit_types:
        moment = Moment.draw(layout, 1)
        moment.agent, moment.seen[:] = 0, True
        moment.kinds[0] = layout.unit_types.index(kind)
        views = [moment.inputs(*straight)]
        for team in ("enemies", "allies"):
            views.append(moment.with_changed(team, 2).inputs(*straight))
        attention, inputs = network.attention, torch.as_tensor(np.stack(views))
        _, targets = attention.read(inputs)
        head = torch.ones(3, basic + attention.num_queries).double()
        logits = attention.logits(head, targets)[:, basic:]
        moved = (logits[1:] - logits[0]).abs() > 1e-9
        changed = [view.nonzero().flatten().tolist() for view in moved]
        assert changed == ([[], [2]] if kind == HEALER else [[2], []])


@pytest.mark.parametrize("name", ["terran_5_vs_5", "zerg_5_vs_5"])
@pytest.mark.parametrize("num_rows", [0, 3])
def test_a_lone_agent_has_no_allies_and_no_rows_give_no_outputs(name, num_rows):
    scenario = dataclasses.replace(load_scenario(name), num_agents=1)
    layout = Layout.of(scenario)
    network = agent_network(layout, True)
    views = torch.rand(num_rows, layout.obs_size + layout.num_actions + 1).double()
    outputs, hidden = network.step(views, network.initial_hidden(num_rows).double())
    assert outputs.shape == (num_rows, layout.num_actions)
    assert hidden.isfinite().all()


def small_network(encoder, recurrent=True):
    torch.manual_seed(0)
    layout = layout_of("terran_5_vs_5")
    return make_agent_network(
        Sizes(layout),
        hidden_size=8,
        recurrent=recurrent,
        encoder=encoder,
        last_action=True,
        agent_id=True,
    )


def episodes(lengths):
    layout = layout_of("terran_5_vs_5")
    straight, _ = orders(layout, 0)
    rows = [
        [Moment.draw(layout, [env, step]).inputs(*straight, True) for env in range(len(lengths))]
        for step in range(max(lengths))
    ]
    return torch.as_tensor(np.array(rows), dtype=torch.float32)


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("encoder", ["mlp", "plain", "attention"])
def test_steps_sequences_and_packed_episodes_agree(encoder, recurrent):
    network, lengths = small_network(encoder, recurrent), [7, 5, 2]
    inputs, hidden = episodes(lengths), network.initial_hidden(3)
    steps = []
    for step in range(7):
        outputs, hidden = network.step(inputs[step], hidden)
        steps.append(outputs)
    rows = torch.tensor([3 * t + env for t in range(7) for env in range(3) if t < lengths[env]])
    expected = torch.stack(steps).flatten(0, 1)[rows]
    keep = torch.ones(7, 3, 1)
    sequence, _ = network.sequence(inputs, network.initial_hidden(3), keep, rows)
    packed = network.packed(inputs.flatten(0, 1)[rows], [3, 3, 2, 2, 2, 1, 1])
    torch.testing.assert_close(sequence, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", ["mlp", "plain", "attention"])
def test_gradient_reaches_every_parameter(encoder):
    network = small_network(encoder)
    outputs = network.packed(episodes([4, 4]).flatten(0, 1), [2, 2, 2, 2])
    outputs.square().sum().backward()
    still = [name for name, p in network.named_parameters() if not p.grad.any() and p.numel()]
    assert still == []


def test_gradient_reaches_every_parameter_of_the_state_critic():
    layout = layout_of("terran_5_vs_5")
    network = Network(
        layout.state_size,
        8,
        1,
        output_gain=1.0,
        recurrent=False,
        encoder="attention",
        entities=state_entities(layout),
    )
    straight, _ = orders(layout, 0)
    states = np.stack([Moment.draw(layout, seed).state(*straight) for seed in range(8)])
    network.step(torch.as_tensor(states, dtype=torch.float32), torch.zeros(8, 0))[
        0
    ].sum().backward()
    still = [name for name, p in network.named_parameters() if not p.grad.any() and p.numel()]
    assert still == []


def test_plain_is_a_linear_layer_and_a_gru_cell():
    network, inputs = small_network("plain"), episodes([6, 6])
    cell = nn.GRUCell(8, 8)
    cell.weight_ih, cell.bias_ih = network.gru.input.weight, network.gru.input.bias
    cell.weight_hh, cell.bias_hh = network.gru.recurrent.weight, network.gru.recurrent.bias
    first, hidden, expected = network.trunk[0], torch.zeros(2, 8), []
    for step in inputs:
        features = torch.relu(step @ first.weight.T + first.bias)
        hidden = cell(features, hidden)
        expected.append(hidden @ network.head.weight.T + network.head.bias)
    packed = network.packed(inputs.flatten(0, 1), [2] * 6)
    torch.testing.assert_close(packed, torch.cat(expected))


def test_the_mlp_draws_its_layers_one_after_the_other():
    def linear(inputs, outputs, gain):
        layer = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(layer.weight, gain)
        return layer

    torch.manual_seed(5)
    network = Network(6, 4, 3, output_gain=0.01, recurrent=False)
    torch.manual_seed(5)
    layers = [linear(6, 4, 2**0.5), linear(4, 4, 2**0.5), linear(4, 3, 0.01)]
    found = [network.trunk[1], network.trunk[4], network.head]
    for mine, theirs in zip(found, layers, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, rtol=0, atol=0)
        assert not mine.bias.any()
    assert [type(layer).__name__ for layer in network.chain] == [
        *("LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear")
    ]


LEARNERS = {
    "mappo": (Mappo, MappoConfig, {"num_steps": 40, "num_minibatches": 1}),
    "ippo": (Mappo, MappoConfig, {"num_steps": 40, "num_minibatches": 1, "critic_input": "obs"}),
    "pqn": (Pqn, PqnConfig, {"num_steps": 40, "num_minibatches": 1}),
    "qmix": (Qmix, QmixConfig, {"buffer_episodes": 8, "batch_episodes": 2}),
}


@pytest.mark.parametrize("network", ["gru", "mlp"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_a_network_that_attends_to_units(name, network):
    make, config, changes = LEARNERS[name]
    changes = {"num_envs": 2, "hidden_size": 8, "network": network, "probe": 1, **changes}
    learner = make(config(encoder="attention", **changes))
    before = {name: value.clone() for name, value in state.checkpoint_of(learner).weights.items()}
    metrics = learner.iterate() | learner.iterate()
    after = state.checkpoint_of(learner).weights
    assert any(name.startswith("plasticity/feature_rank") for name in metrics)
    learning = [name for name in before if "attention." in name and not name.startswith("target")]
    assert learning
    still = [name for name in learning if torch.equal(before[name], after[name])]
    assert [name for name in still if before[name].numel()] == []


def test_a_game_without_entities_is_refused_in_one_line():
    config = MappoConfig(env="toy:toy/coordination-v0", encoder="attention", num_envs=2)
    with pytest.raises(UsageError) as error:
        Mappo(config)
    assert str(error.value) == (
        "--encoder attention needs entity rows: toy/coordination-v0 has no layout"
    )


@pytest.mark.parametrize("option", ["obs_starcraft=false", "obs_instead_of_state=true"])
def test_options_that_leave_no_rows_are_refused_in_one_line(option):
    options = (option, "obs_timestep_number=true")
    config = MappoConfig(encoder="attention", num_envs=2, env_option=options)
    with pytest.raises(UsageError, match=f"attention needs entity rows: {option} leaves none"):
        Mappo(config)
