"""Several seeds' networks run as one: each gets what it would get alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plasticity_flags import same, timeless
from toy import TOY

from baselines.config import PqnConfig
from baselines.learners import pqn_stack
from baselines.learners.pqn import Pqn
from baselines.networks import network_stack, stacked
from baselines.networks.network import Network
from baselines.networks.network_stack import PLACES, NetworkStack, runs_as_one
from baselines.networks.stacked import stacked_linear
from ppo_plasticity.interventions.structure import InjectedHead

ENCODERS = pytest.mark.parametrize("encoder", ["mlp", "plain", "attention"])
KINDS = pytest.mark.parametrize("recurrent", [True, False], ids=["gru", "mlp"])
STEPS, BATCH = 7, 5


def network(seed, encoder="mlp", recurrent=True, hidden_size=12):
    """Return a network whose weights depend on nothing but the seed."""
    torch.manual_seed(seed)
    if encoder == "attention":
        kind = "gru" if recurrent else "mlp"
        env = {"env": "smacv2/terran_5_vs_5", "num_envs": 1, "num_minibatches": 1}
        config = PqnConfig(**env, network=kind, encoder=encoder, hidden_size=hidden_size)
        made = Pqn(config).agent.network
    else:
        made = Network(9, hidden_size, 4, output_gain=1.0, recurrent=recurrent, encoder=encoder)
    with torch.no_grad():  # norms' gains of one and zero offsets would hide mistakes
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def input_size(network):
    if network.attention is None:
        return 9
    return max(map(max, [network.attention.entities.agent_id, network.attention.entities.own])) + 1


def draw(networks, seeds):
    """Return inputs, hidden states, keep and weights of outputs, each seed's its own."""
    drawn, size = [], input_size(networks[0])
    num_outputs = len(networks[0].step(torch.zeros(1, size), networks[0].initial_hidden(1))[0][0])
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn.append(
            (
                torch.randn(STEPS, BATCH, size, generator=generator),
                torch.randn(BATCH, networks[0].memory_size, generator=generator),
                (torch.rand(STEPS, BATCH, 1, generator=generator) > 0.3).float(),
                torch.randn(STEPS * BATCH, num_outputs, generator=generator),
            )
        )
    return [torch.stack(column) for column in zip(*drawn, strict=True)]


def run(networks, inputs, hidden, keep, weights):
    """Return a sequence, a step, and each network's gradients."""
    for each in networks:
        each.zero_grad()
    made = NetworkStack(networks)
    outputs, memory = made.sequence(inputs, hidden, keep)
    (outputs * weights).sum().backward()
    with torch.no_grad():
        step = made.step(inputs[:, 0], hidden)
    gradients = [
        [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in each.parameters()]
        for each in networks
    ]
    return [outputs.detach(), memory.detach(), *step], gradients


@KINDS
@ENCODERS
def test_each_seed_computes_what_its_own_network_computes(encoder, recurrent):
    seeds = (3, 4, 5)
    networks = [network(seed, encoder, recurrent) for seed in seeds]
    inputs, hidden, keep, weights = draw(networks, seeds)
    found, gradients = run(networks, inputs, hidden, keep, weights)
    for index, lone in enumerate(networks):
        lone.zero_grad()
        outputs, memory = lone.sequence(inputs[index], hidden[index], keep[index])
        (outputs * weights[index]).sum().backward()
        step = lone.step(inputs[index, 0], hidden[index])
        for mine, wanted in zip(found, [outputs, memory, *step], strict=True):
            torch.testing.assert_close(mine[index], wanted)
        for mine, parameter in zip(gradients[index], lone.parameters(), strict=True):
            wanted = torch.zeros_like(mine) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)


@given(size=st.integers(1, 40), seeds=st.integers(1, PLACES), which=st.integers(0, PLACES - 1))
@settings(max_examples=25, deadline=None)
def test_a_seed_among_others_equals_the_seed_alone_bit_for_bit(size, seeds, which):
    networks = [network(seed, hidden_size=size) for seed in range(seeds)]
    which %= seeds
    drawn = draw(networks, range(seeds))
    together, gradients = run(networks, *drawn)
    alone, own = run(networks[which : which + 1], *(t[which : which + 1] for t in drawn))
    for mine, wanted in zip(together, alone, strict=True):
        assert torch.equal(mine[which], wanted[0])
    for mine, wanted in zip(gradients[which], own[0], strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("seeds", [1, 3, PLACES])
def test_products_are_always_of_as_many_matrices(seeds, monkeypatch):
    """cuBLAS rounds by their number, which no processor shows."""
    counts = set()

    def counting(inputs, weight, bias):
        counts.add((len(inputs), len(weight), len(bias)))
        return stacked_linear(inputs, weight, bias)

    monkeypatch.setattr(stacked, "stacked_linear", counting)
    networks = [network(seed) for seed in range(seeds)]
    made, drawn = NetworkStack(networks), draw(networks, range(seeds))
    outputs, _ = made.sequence(*drawn[:3])
    assert counts == {(PLACES,) * 3}
    assert made.gru.weight.shape[0] == made.gru.bias.shape[0] == PLACES
    assert len(outputs) == seeds


def test_layers_that_stacks_do_not_know_run_one_after_the_other():
    networks = [network(seed, recurrent=False) for seed in (3, 4)]
    for seed, changed in enumerate(networks):
        torch.manual_seed(seed)
        changed.trunk[1] = torch.nn.Linear(9, 12, bias=False)
        changed.head = InjectedHead(12, 4)
    drawn = draw(networks, (3, 4))
    found, _ = run(networks, *drawn)
    for index, lone in enumerate(networks):
        wanted, _ = lone.sequence(*(tensor[index] for tensor in drawn[:3]))
        torch.testing.assert_close(found[0][index], wanted)


def test_a_change_of_one_seeds_weights_reaches_the_next_stack_and_no_other_seed():
    networks = [network(seed) for seed in (3, 4)]
    inputs, hidden, keep, _ = draw(networks, (3, 4))
    before, _ = NetworkStack(networks).sequence(inputs, hidden, keep)
    with torch.no_grad():
        networks[1].head.bias += 1.0
    after, _ = NetworkStack(networks).sequence(inputs, hidden, keep)
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(after[1], before[1] + 1.0)


def toy(**changes):
    fields = {"env": TOY, "num_envs": 6, "num_steps": 10, "num_minibatches": 2, "hidden_size": 16}
    return PqnConfig(**fields | {"num_threads": 1} | changes)


def assert_equal_to_lone_runs(iterations, **changes):
    together = pqn_stack.make_group(toy(seeds=3, **changes))
    rows = [together.iterate() for _ in range(iterations)]
    for index, learner in enumerate(together.learners):
        alone = pqn_stack.make_group(toy(seed=1 + index, **changes))
        for row in rows:
            mine, wanted = timeless(row[index]), timeless(alone.iterate()[0])
            assert str(mine) == str(wanted)
            assert all(math.isfinite(value) for value in mine.values())
        assert same(learner.network.state_dict(), alone.learners[0].network.state_dict())


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(pqn_stack, "runs_as_one", lambda network: True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder": "plain", "mixer": "sum", "probe": 1},
        {"network": "mlp", "intervention": ("injection:at=1",)},
        {"intervention": ("pfo:coef=1",)},
    ],
)
def test_pqn_with_its_networks_as_one_equals_lone_runs_bit_for_bit(
    changes, as_on_a_gpu, monkeypatch
):
    """With more seeds than run at once, and with what needs each network by itself."""
    monkeypatch.setattr(network_stack, "PLACES", 2)
    monkeypatch.setattr(pqn_stack, "PLACES", 2)
    assert_equal_to_lone_runs(3, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_steps": 1, "num_minibatches": 4, "memory_window": 2},
        {"num_steps": 1, "num_minibatches": 1, "num_envs": 1},
    ],
)
def test_a_seed_that_has_nothing_to_learn_from_lets_the_others_learn(changes, as_on_a_gpu):
    """Reset rows fill some seeds' minibatches, or the whole rollout of some."""
    assert_equal_to_lone_runs(30, **changes)


def test_on_a_processor_seeds_take_turns():
    assert not runs_as_one(network(1))
    assert_equal_to_lone_runs(2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, {"hidden_size": 13, "network": "mlp"}])
def test_on_a_gpu_seeds_run_as_one_and_equal_their_lone_runs(changes):
    assert runs_as_one(network(1).cuda())
    assert_equal_to_lone_runs(3, device="cuda", **changes)
