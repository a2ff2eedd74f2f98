"""Interventions that change layers: LayerNorm, CReLU, NaP, plasticity injection."""

import pytest
import torch
from torch import nn

from ppo_plasticity.interventions import Interventions, ModuleHandle, parse


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def mlp(activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, 2)
    )


def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(5 * 3 * 3, 7), nn.ReLU(), nn.Linear(7, 2))


def kinds(network):
    return [type(layer).__name__ for layer in network]


def attach(intervention, network, **options):
    network = intervention.layers(network)
    handle = ModuleHandle(network, torch.optim.Adam(network.parameters(), **options))
    intervention.start(handle)
    return handle


def step(handle, obs, extra=0.0):
    handle.optimizer.zero_grad()
    ((handle.module(obs) - 1).square().mean() + extra).backward()
    handle.optimizer.step()


# --- LayerNorm -----------------------------------------------------------------------------------


def test_layer_norm_comes_between_hidden_layers_and_their_activations():
    assert kinds(parse("layer_norm").layers(mlp())) == [
        *("Linear", "LayerNorm", "ReLU"),
        *("Linear", "LayerNorm", "ReLU", "Linear"),
    ]


def test_normalised_pre_activations_have_mean_zero_and_variance_one():
    network = parse("layer_norm").layers(convolutional())
    images = torch.randn(5, 2, 6, 6)
    normalised = network[:2](images).flatten(1)
    assert normalised.mean(1).abs().max() < 1e-6
    assert (normalised.var(1, unbiased=False) - 1).abs().max() < 1e-2
    assert network(images).shape == (5, 2)


def test_layer_norm_is_not_added_twice():
    once = parse("layer_norm").layers(mlp())
    assert kinds(parse("nap").layers(once)) == kinds(once)


# --- CReLU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "shape"), [(mlp(), (5, 3)), (mlp(nn.Tanh), (5, 3)), (convolutional(), (5, 2, 6, 6))]
)
def test_crelu_doubles_the_units_that_are_read_and_not_the_outputs(network, shape):
    changed = parse("crelu").layers(network)
    inputs, hidden = torch.randn(shape), torch.randn(shape)
    assert changed(inputs).shape == network(inputs).shape
    assert changed[:-1](hidden).shape[1] == 2 * network[:-1](hidden).shape[1]


def test_crelu_keeps_both_signs():
    changed = parse("crelu").layers(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    with torch.no_grad():
        changed[0].weight.fill_(1)
        changed[0].bias.fill_(0)
    assert changed[:2](torch.tensor([[3.0], [-2.0]])).tolist() == [[3, 0], [0, 2]]


def test_crelu_works_with_layer_norm_and_injection():
    for order in (["crelu", "layer_norm", "injection"], ["injection", "layer_norm", "crelu"]):
        changed = Interventions([parse(name) for name in order]).layers(convolutional())
        assert changed(torch.randn(5, 2, 6, 6)).shape == (5, 2)


# --- NaP -----------------------------------------------------------------------------------------


def test_nap_keeps_the_norm_of_hidden_layers_and_the_outputs():
    nap = parse("nap")
    handle = attach(nap, mlp(), lr=0.1)
    obs = torch.randn(64, 3)

    def norm(layer):
        return torch.cat([layer.weight.flatten(), layer.bias]).norm()

    hidden = [layer for layer in handle.module[:-1] if isinstance(layer, nn.Linear)]
    before = [norm(layer) for layer in hidden]
    step(handle, obs)
    assert not torch.allclose(norm(hidden[0]), before[0], rtol=1e-2)
    outputs = handle.module(obs)
    nap.after_step(handle, obs)
    assert all(map(torch.allclose, map(norm, hidden), before))
    assert torch.allclose(handle.module(obs), outputs, atol=1e-3)  # up to LayerNorm's epsilon


# --- Plasticity injection ------------------------------------------------------------------------


def injected_after_two_batches():
    injection = parse("injection:at=2")
    handle = attach(injection, mlp(), lr=0.1)
    obs = torch.randn(16, 3)
    for _ in range(2):
        step(handle, obs)
        before = handle.module(obs)
        injection.after_batch(handle, obs)
    return injection, handle, obs, before


def test_outputs_do_not_change_at_the_moment_of_injection():
    _, handle, obs, before = injected_after_two_batches()
    assert bool(handle.module[-1].injected)
    assert torch.equal(handle.module(obs), before)


def test_only_the_new_head_trains_after_injection():
    injection, handle, obs, before = injected_after_two_batches()
    head = handle.module[-1]
    old, copied, new = (w.clone() for w in (head.weight, head.copy_weight, head.new_weight))
    for _ in range(3):
        shrinking = sum(parameter.square().sum() for parameter in handle.parameters.values())
        step(handle, obs, extra=0.1 * shrinking)
        injection.after_step(handle, obs)
    assert torch.equal(head.weight, old)
    assert torch.equal(head.copy_weight, copied)
    assert not torch.equal(head.new_weight, new)
    assert not torch.equal(handle.module(obs), before)


def test_old_moments_do_not_move_the_frozen_head():
    _, handle, obs, _ = injected_after_two_batches()
    old = handle.module[-1].weight.clone()
    step(handle, obs)
    assert torch.equal(handle.module[-1].weight, old)


def test_before_injection_the_head_trains_as_a_plain_head():
    plain = mlp()
    handle = ModuleHandle(plain, torch.optim.Adam(plain.parameters(), lr=0.1))
    injected = attach(parse("injection"), mlp(), lr=0.1)
    obs = torch.randn(16, 3)
    for _ in range(3):
        step(handle, obs)
        step(injected, obs)
    assert torch.equal(plain(obs), injected.module(obs))


def test_the_switch_is_saved_with_the_weights():
    _, handle, obs, before = injected_after_two_batches()
    loaded = parse("injection").layers(mlp())
    loaded.load_state_dict(handle.module.state_dict())
    assert torch.equal(loaded(obs), before)


def test_reset_parameters_undoes_the_injection():
    _, handle, obs, _ = injected_after_two_batches()
    head = handle.module[-1]
    head.reset_parameters()
    features = handle.module[:-1](obs)
    assert torch.equal(head(features), nn.functional.linear(features, head.weight, head.bias))


def test_plasticity_is_injected_only_once():
    with pytest.raises(ValueError, match="only once"):
        Interventions([parse("injection"), parse("injection")]).layers(mlp())


def test_a_head_without_bias_is_injected_too():
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
    injection, obs = parse("injection:at=0"), torch.randn(16, 3)
    before = network(obs)
    handle = attach(injection, network)
    assert torch.equal(handle.module(obs), before)
