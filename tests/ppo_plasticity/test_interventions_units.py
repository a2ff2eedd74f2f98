"""Interventions that replace units or weights: ReDo, continual backprop, resets, clipping."""

import pytest
import torch
from torch import nn

from ppo_plasticity.interventions import ModuleHandle, parse
from ppo_plasticity.interventions.structure import (
    CReLU,
    find_hidden_layers,
    fresh_parameters,
    weight_names,
)
from ppo_plasticity.interventions.units import activity


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def alive(network):
    """Return the network with biases that keep all its units alive."""
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.constant_(layer.bias, 2)
    return network


def mlp():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)]
    return alive(nn.Sequential(*layers))


def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten()]
    return alive(nn.Sequential(*layers, nn.Linear(5 * 3 * 3, 7), nn.ReLU(), nn.Linear(7, 2)))


NETWORKS = [(mlp, (64, 3)), (convolutional, (16, 2, 6, 6))]


def trained(intervention, network, obs):
    """Attach an intervention and take one step, so that Adam has moments."""
    handle = ModuleHandle(network, torch.optim.Adam(network.parameters()))
    intervention.start(handle)
    network(obs).square().sum().backward()
    handle.optimizer.step()
    return handle


def kill(layer, unit):
    with torch.no_grad():
        layer.weight[unit] = 0
        layer.bias[unit] = -1


def test_activity_of_a_convolution_is_the_mean_over_rows_and_positions():
    network, images = convolutional(), torch.randn(16, 2, 6, 6)
    first, second, _ = activity(network, find_hidden_layers(network), images)
    assert torch.allclose(first, network[:2](images).mean((0, 2, 3)))
    assert torch.allclose(second, network[:4](images).mean((0, 2, 3)))


def test_activity_of_a_crelu_counts_both_halves():
    network = nn.Sequential(nn.Linear(3, 4), CReLU(-1), nn.Linear(8, 2))
    obs = torch.randn(32, 3)
    (found,) = activity(network, find_hidden_layers(network), obs)
    assert torch.allclose(found, network[0](obs).abs().mean(0) / 2)


# --- ReDo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "shape"), NETWORKS)
def test_redo_of_dead_units_does_not_change_the_outputs(build, shape):
    redo, obs = parse("redo:every=1,threshold=0"), torch.randn(shape)
    network = build()
    handle = trained(redo, network, obs)
    for layer in find_hidden_layers(network):
        kill(layer.layer, 2)
    before, weight = network(obs), network[0].weight.clone()
    redo.after_batch(handle, obs)
    assert torch.allclose(network(obs), before, atol=1e-6)
    changed = (network[0].weight != weight).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(("build", "shape"), NETWORKS)
def test_redo_draws_dead_units_anew_and_zeroes_their_outgoing_weights(build, shape):
    redo, obs = parse("redo:every=1,threshold=0"), torch.randn(shape)
    network = build()
    handle = trained(redo, network, obs)
    last = find_hidden_layers(network)[-1]
    kill(last.layer, 2)
    redo.after_batch(handle, obs)
    head = network[-1]
    assert head.weight[:, 2].count_nonzero() == 0
    assert head.weight[:, 3].count_nonzero() == len(head.weight)
    bound = 1 / last.layer.in_features**0.5
    assert 0 < last.layer.weight[2].abs().max() <= bound


def test_redo_finds_the_weights_that_read_a_channel_after_flatten():
    redo, images = parse("redo:every=1,threshold=0"), torch.randn(16, 2, 6, 6)
    network = convolutional()
    handle = trained(redo, network, images)
    kill(network[2], 3)
    redo.after_batch(handle, images)
    zeros = (network[5].weight == 0).all(0).nonzero().flatten()
    assert zeros.tolist() == list(range(3 * 9, 4 * 9))  # 3 x 3 positions of channel 3


def test_redo_resets_the_moments_of_replaced_units_only():
    redo, obs = parse("redo:every=1,threshold=0"), torch.randn(64, 3)
    network = mlp()
    handle = trained(redo, network, obs)
    kill(network[2], 1)
    redo.after_batch(handle, obs)
    for incoming, bias, reading in zip(
        *(handle.moments(name) for name in ("2.weight", "2.bias", "4.weight")), strict=True
    ):
        assert incoming[1].count_nonzero() == bias[1] == reading[:, 1].count_nonzero() == 0
        assert incoming.count_nonzero() > 0
        assert reading.count_nonzero() > 0


def test_redo_acts_once_in_so_many_batches():
    redo, obs = parse("redo:every=3"), torch.randn(64, 3)
    network = mlp()
    handle = trained(redo, network, obs)
    kill(network[0], 2)
    for alive in (False, False, True):
        redo.after_batch(handle, obs)
        assert bool(network[0].weight[2].any()) == alive


# --- Continual backprop --------------------------------------------------------------------------


def test_continual_backprop_replaces_the_least_useful_mature_unit():
    intervention, obs = parse("continual_backprop:rate=0.125,maturity=2"), torch.randn(64, 3)
    network = mlp()
    handle = trained(intervention, network, obs)
    with torch.no_grad():
        network[2].weight[:, 5] = 1e-6  # no layer reads unit 5 of the first layer
    replaced = []
    for _ in range(3):
        weight = network[0].weight.clone()
        intervention.after_step(handle, obs)
        replaced.append((network[0].weight != weight).any(1).nonzero().flatten().tolist())
    assert replaced == [[], [], [5]]
    assert network[2].weight[:, 5].count_nonzero() == 0
    assert intervention.age["0"][5] == 0


def test_continual_backprop_replaces_the_given_fraction_over_time():
    intervention, obs = parse("continual_backprop:rate=0.01,maturity=0"), torch.randn(64, 3)
    network = mlp()
    handle = trained(intervention, network, obs)
    count = 0
    for _ in range(100):
        weight = network[0].weight.clone()
        intervention.after_step(handle, obs)
        count += int((network[0].weight != weight).any(1).sum())
    assert count in (7, 8)  # 8 units x 0.01 x 100, up to rounding


# --- Weights -------------------------------------------------------------------------------------


def test_weights_are_clipped_to_a_multiple_of_their_initial_bound():
    clipping, obs = parse("weight_clipping:factor=1.5"), torch.randn(16, 2, 6, 6)
    network = convolutional()
    handle = trained(clipping, network, obs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(100)
    clipping.after_step(handle, obs)
    for layer, fan_in in ((network[0], 18), (network[2], 16), (network[5], 45), (network[7], 7)):
        for parameter in layer.parameters():
            assert parameter.abs().max().item() == pytest.approx(1.5 / fan_in**0.5)


def test_shrink_and_perturb_mixes_with_fresh_weights():
    intervention, obs = parse("shrink_perturb:keep=0.25,every=1"), torch.randn(4, 3)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 400), nn.LayerNorm(400), nn.ReLU(), nn.Linear(400, 1))
    handle = ModuleHandle(network, torch.optim.Adam(network.parameters()))
    intervention.start(handle)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(2)
    intervention.after_batch(handle, obs)
    weight = network[0].weight
    assert weight.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert weight.std().item() == pytest.approx(0.75 * 0.1 / 3**0.5, rel=0.01)
    assert (network[1].weight == 0.25 * 2 + 0.75).all()
    assert (network[1].bias == 0.25 * 2).all()


@pytest.mark.parametrize(("per", "other"), [("step", "batch"), ("batch", "step")])
def test_shrink_and_perturb_counts_either_steps_or_batches(per, other):
    intervention, obs = parse(f"shrink_perturb:per={per},every=2"), torch.randn(64, 3)
    network = mlp()
    handle = trained(intervention, network, obs)
    before = network[0].weight.clone()
    for hook in (f"after_{other}", f"after_{other}", f"after_{per}"):
        getattr(intervention, hook)(handle, obs)
    assert torch.equal(network[0].weight, before)
    getattr(intervention, f"after_{per}")(handle, obs)
    assert not torch.equal(network[0].weight, before)


@pytest.mark.parametrize(("count", "changed"), [(1, "4"), (2, "24"), (0, "024")])
def test_head_reset_draws_the_last_layers_anew_and_resets_their_moments(count, changed):
    reset, obs = parse(f"head_reset:every=1,count={count}"), torch.randn(64, 3)
    network = mlp()
    handle = trained(reset, network, obs)
    before = {name: value.clone() for name, value in network.named_parameters()}
    reset.after_batch(handle, obs)
    for name, value in network.named_parameters():
        moved = name[0] in changed
        assert torch.equal(value, before[name]) != moved
        assert all(bool(moment.any()) != moved for moment in handle.moments(name))


def test_head_reset_of_an_injected_head_keeps_its_frozen_weights():
    both = [parse("injection:at=0"), parse("head_reset:every=1")]
    network, obs = both[0].layers(mlp()), torch.randn(64, 3)
    handle = ModuleHandle(network, torch.optim.Adam(network.parameters()))
    for intervention in both:
        intervention.start(handle)
    old = network[-1].weight.clone()
    both[1].after_batch(handle, obs)
    both[0].after_step(handle, obs)
    assert torch.equal(network[-1].weight, old)


class Noise(nn.Module):
    """Learned standard deviations after the head, with a `reset_parameters` of their own."""

    def __init__(self):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(400))

    def reset_parameters(self):
        nn.init.normal_(self.log_std, mean=3)

    def forward(self, mean):
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)


def with_noise():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 400), Noise())


def test_a_layer_of_another_kind_is_mixed_with_values_from_its_reset_parameters():
    mix, obs = parse("shrink_perturb:keep=0.25,every=1"), torch.randn(4, 3)
    outcomes = []
    for _ in range(2):
        network = with_noise()
        handle = ModuleHandle(network, torch.optim.Adam(network.parameters()))
        mix.start(handle)
        state = torch.get_rng_state()
        mix.after_batch(handle, obs)
        assert torch.equal(torch.get_rng_state(), state)
        outcomes.append(network[3].log_std.detach().clone())
    assert torch.equal(*outcomes)
    assert outcomes[0].mean().item() == pytest.approx(0.75 * 3, abs=0.15)
    assert outcomes[0].std().item() == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize(("count", "changed"), [(1, "2"), (2, "02"), (0, "023")])
def test_the_head_is_the_last_linear_layer_even_if_another_layer_follows(count, changed):
    reset, obs = parse(f"head_reset:every=1,count={count}"), torch.randn(64, 3)
    network = with_noise()
    handle = trained(reset, network, obs)
    before = {name: value.clone() for name, value in network.named_parameters()}
    reset.after_batch(handle, obs)
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) != (name[0] in changed)


def test_a_layer_that_cannot_draw_its_parameters_is_named():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

    network = nn.Sequential(nn.Linear(3, 2), Gain())
    with pytest.raises(ValueError, match=r"known for Gain.gain: no reset_parameters"):
        list(fresh_parameters(network, torch.Generator()))


def test_names_of_weights_follow_the_order_of_layers():
    assert weight_names(convolutional()) == ["0.weight", "2.weight", "5.weight", "7.weight"]
    assert weight_names(convolutional(), head=False) == ["0.weight", "2.weight", "5.weight"]


def test_a_network_without_a_head_is_refused():
    with pytest.raises(ValueError, match="has no"):
        weight_names(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))
