"""Stacked seeds: each computes what it would compute alone, and shares memory with its module."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines.learners.ppo_stack import (
    LANES,
    Block,
    SeedHandle,
    Stack,
    block_tests,
    clip_gradients,
    joint_norm,
)
from baselines.networks.single_agent import ActorCritic, AppendLogStd, hidden_layers
from baselines.networks.stacked import stacked_linear
from ppo_plasticity.interventions.structure import CReLU, InjectedHead

PIXELS = (2, 36, 36)  # the smallest square that NatureCNN can see


def mlp(activation):
    return lambda head: nn.Sequential(*hidden_layers((5,), 12, activation), nn.Linear(12, head))


def nature(head):
    return nn.Sequential(*hidden_layers(PIXELS, 16, "relu"), nn.Linear(16, head))


def normalised(head):
    return nn.Sequential(
        *(nn.Linear(5, 12), nn.LayerNorm(12), nn.Tanh()),
        *(nn.Linear(12, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, head)),
    )


def concatenated(head):
    return nn.Sequential(nn.Linear(5, 6), CReLU(-1), nn.Linear(12, head))


def injected(head):
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), InjectedHead(6, head))


def with_log_std(head):
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, head), AppendLogStd(head))


BUILDS = {
    "tanh": mlp("tanh"),
    "relu": mlp("relu"),
    "gelu": mlp("gelu"),
    "leaky_relu": mlp("leaky_relu"),
    "nature": nature,
    "layer_norm": normalised,
    "crelu": concatenated,
    "injected_head": injected,
    "log_std": with_log_std,
}
EACH = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)


def agents(build, seeds, *, shared=False):
    """Return one agent per seed, whose weights depend on nothing but the seed."""
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        actor, critic = build(3), build(1)
        if shared:
            critic = nn.Sequential(*list(actor)[:-1], critic[-1])
        made.append(ActorCritic(actor, critic))
        with torch.no_grad():  # norms' gains of one and zero offsets would hide mistakes
            for parameter in made[-1].parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def stack(build, seeds, **options):
    made = agents(build, seeds, **options)
    return Stack(made, block_tests(made[0]))


def inputs(build, seeds, rows=6):
    """Return (seeds, rows, ...) that depend on nothing but the seed."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        if build is nature:
            drawn.append(torch.randint(256, (rows, *PIXELS), generator=generator).byte())
        else:
            drawn.append(torch.randn(rows, 5, generator=generator))
    return torch.stack(drawn)


def squares(group, obs):
    """Return a scalar that depends on every output of a stack."""
    return sum((group.forward(name, obs)[0] - 1).square().sum() for name in ("actor", "critic"))


@EACH
def test_each_seed_computes_what_its_own_module_computes(build):
    seeds = (3, 4) if build is nature else (3, 4, 5)
    obs, alone = inputs(build, seeds), agents(build, seeds)
    group = stack(build, seeds)
    squares(group, obs).backward()
    for seed, agent in enumerate(alone):
        for name in ("actor", "critic"):
            wanted = getattr(agent, name)(obs[seed])
            torch.testing.assert_close(group.forward(name, obs)[0][seed], wanted)
            (wanted - 1).square().sum().backward()
        for name, parameter in agent.named_parameters():
            found = group.parameters[name].grad[seed]
            wanted = torch.zeros_like(found) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, wanted, msg=name)


@EACH
def test_preactivations_are_what_the_hidden_layers_return(build):
    seeds = (3, 4)
    group, obs = stack(build, seeds), inputs(build, seeds)
    _, found = group.forward("actor", obs)
    for seed in range(2):
        wanted, x = [], obs[seed]
        for layer in group.agents[seed].actor:
            x = layer(x)
            wanted += [x] if isinstance(layer, nn.Linear | nn.Conv2d) else []
        assert len(found) == len(wanted) - 1
        for mine, theirs in zip(found, wanted, strict=False):
            torch.testing.assert_close(mine[seed], theirs)


def test_an_injected_head_works_on_in_the_stack():
    group, obs = stack(injected, (3, 4)), inputs(injected, (3, 4))
    before = group.forward("actor", obs)[0]
    group.agents[1].actor[-1].inject(torch.Generator().manual_seed(0))
    after = group.forward("actor", obs)[0]
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(before, after)
    squares(group, obs).backward()
    name = "actor.2.new_weight"
    assert group.parameters[name].grad[0].abs().max() == 0
    assert group.parameters[name].grad[1].abs().max() > 0


@EACH
def test_module_and_stack_see_each_others_changes(build):
    group = stack(build, (3, 4))
    with torch.no_grad():
        for name, parameter in group.agents[1].named_parameters():
            parameter.fill_(7.0)
            assert (group.parameters[name][1] == 7).all()
            assert not (group.parameters[name][0] == 7).all()
            group.parameters[name][1] = 3.0
            assert (parameter == 3).all()
    for block in group.blocks.values():
        block.flat.detach()[0] = 2.0
    assert all((parameter == 2).all() for parameter in group.agents[0].parameters())
    assert all((parameter == 3).all() for parameter in group.agents[1].parameters())


def test_every_parameter_lies_in_one_block_once():
    group = stack(mlp("tanh"), (3, 4))
    assert set(group.blocks) == {"actor", "critic"}
    numbers = sum(
        leaf[0].numel() for block in group.blocks.values() for leaf in block.parameters.values()
    )
    assert numbers == sum(parameter.numel() for parameter in group.agents[0].parameters())


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@EACH
def test_acting_rounds_as_a_lone_seed_does_and_sees_changed_weights(build, rows):
    together, obs = stack(build, (3, 4, 5)), inputs(build, (3, 4, 5), rows)
    acts = together.frozen("actor")
    for block in together.blocks.values():
        block.flat.detach().mul_(1.5)
    with torch.no_grad():
        found = acts(obs)
        torch.testing.assert_close(found, together.forward("actor", obs)[0])
        for index, seed in enumerate((3, 4, 5)):
            alone = stack(build, (seed,))
            for block in alone.blocks.values():
                block.flat.detach().mul_(1.5)
            assert torch.equal(alone.frozen("actor")(obs[index : index + 1])[0], found[index])


def optimizer(group):
    return torch.optim.Adam([b.flat for b in group.blocks.values()], lr=1e-2, fused=True)


def train(group, obs, steps=20):
    """Take clipped Adam steps; return the norms before clipping, (steps, blocks, seeds)."""
    adam, norms = optimizer(group), []
    for _ in range(steps):
        for block in group.blocks.values():
            block.flat.grad.zero_()
        squares(group, obs).backward()
        norms.append(clip_gradients(list(group.blocks.values()), 0.5))
        adam.step()
    return torch.stack(norms)


@given(st.integers(1, 70), st.integers(2, 20), st.integers(1, 20))
@settings(max_examples=60)
def test_a_layer_of_any_size_rounds_as_a_lone_one_does_bit_for_bit(rows, features, outputs):
    torch.manual_seed(0)
    together = [torch.randn(3, *s) for s in ((rows, features), (outputs, features), (outputs,))]
    weights = torch.randn(3, rows, outputs)
    results = []
    for seeds in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):
        own = [torch.empty(0)] * 3
        for index, tensor in enumerate(together):
            block = Block(
                [{"p": nn.Parameter(value)} for value in tensor[seeds]]
            )  # padded, as in use
            own[index] = block.parameters["p"] if index else tensor[seeds].clone().requires_grad_()
        result = stacked_linear(*own)
        (result * weights[seeds]).sum().backward()
        results.append([result.detach(), *(tensor.grad for tensor in own)])
    for parts in zip(*results, strict=True):
        assert torch.equal(parts[0], torch.cat(parts[1:]))


@pytest.mark.parametrize("rows", [1, 6, 61])
@EACH
def test_three_seeds_train_as_each_would_alone_bit_for_bit(build, rows):
    if build is nature:
        rows = min(rows, 6)
    steps = 3 if build is nature else 20
    seeds = (3, 4, 5)
    together = stack(build, seeds)
    norms = train(together, inputs(build, seeds, rows), steps)
    for index, seed in enumerate(seeds):
        alone = stack(build, (seed,))
        assert torch.equal(
            train(alone, inputs(build, (seed,), rows), steps)[..., 0], norms[..., index]
        )
        pairs = zip(together.blocks.values(), alone.blocks.values(), strict=True)
        assert all(torch.equal(block.flat[index], other.flat[0]) for block, other in pairs)


@EACH
def test_padding_stays_zero(build):
    group = stack(build, (3, 4))
    train(group, inputs(build, (3, 4)), 3)
    for block in group.blocks.values():
        numbers = sum(leaf[0].numel() for leaf in block.parameters.values())
        assert block.flat.shape[1] % LANES == 0
        assert block.flat.shape[1] - numbers < LANES
        assert (block.flat[:, numbers:] == 0).all()


def test_each_seeds_gradients_are_clipped_to_the_norm_by_themselves():
    group = stack(mlp("tanh"), (3, 4))
    blocks = list(group.blocks.values())
    for number, block in enumerate(blocks):
        block.flat.grad.zero_()
        block.flat.grad[0, :4] = 3.0 + number  # norms 6 and 8: together 10
        block.flat.grad[1, 0] = 0.03 + 0.01 * number  # norms 0.03 and 0.04: together 0.05
    norms = clip_gradients(blocks, 0.5)
    torch.testing.assert_close(norms, torch.tensor([[6.0, 0.03], [8.0, 0.04]]))
    torch.testing.assert_close(joint_norm(norms), torch.tensor([10.0, 0.05]))
    for number, block in enumerate(blocks):
        clipped = torch.full((4,), (3.0 + number) * 0.5 / 10)
        torch.testing.assert_close(block.flat.grad[0, :4], clipped)
        assert float(block.flat.grad[1, 0]) == pytest.approx(0.03 + 0.01 * number)


def test_a_shared_trunk_is_one_block_that_both_networks_read():
    group = stack(mlp("tanh"), (3, 4), shared=True)
    assert set(group.blocks) == {"actor", "critic", "trunk"}
    assert set(group.blocks["trunk"].parameters) == {
        f"actor.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")
    }
    assert set(group.blocks["critic"].parameters) == {"critic.4.weight", "critic.4.bias"}
    assert group.parameters["critic.0.weight"] is group.parameters["actor.0.weight"]
    for network in ("actor", "critic"):
        blocks = group.blocks_of(network)
        assert {id(block) for block in blocks} == {id(group.blocks[n]) for n in (network, "trunk")}
    obs = inputs(mlp("tanh"), (3, 4))
    squares(group, obs).backward()
    alone = agents(mlp("tanh"), (3, 4), shared=True)[1]
    (
        (alone.actor(obs[1]) - 1).square().sum() + (alone.critic(obs[1]) - 1).square().sum()
    ).backward()
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(group.parameters[name].grad[1], parameter.grad)


@pytest.mark.parametrize("shared", [False, True])
def test_moments_and_resets_reach_one_seed_and_network_only(shared):
    group = stack(mlp("tanh"), (3, 4), shared=shared)
    adam, obs = optimizer(group), inputs(mlp("tanh"), (3, 4))
    handles = {
        (seed, name): SeedHandle(group, seed, name, [adam], torch.Generator())
        for seed in (0, 1)
        for name in ("actor", "critic")
    }
    handle = handles[1, "actor"]
    assert handle.moments("0.weight") == []  # before the first step
    squares(group, obs).backward()
    adam.step()
    gradient = group.parameters["actor.0.weight"].grad
    first, second = handle.moments("0.weight")
    torch.testing.assert_close(first, 0.1 * gradient[1])  # Adam's betas are 0.9 and 0.999
    torch.testing.assert_close(second, 1e-3 * gradient[1].square())
    kept = {key: handles[key].moments("4.weight")[0].clone() for key in handles}
    handle.reset_optimizer()
    for key, other in handles.items():
        now = other.moments("4.weight")[0]
        assert torch.equal(now, torch.zeros_like(now) if key == (1, "actor") else kept[key])
    assert handle.moments("0.weight")[0].abs().max() == 0
