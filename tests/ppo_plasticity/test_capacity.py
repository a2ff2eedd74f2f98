"""Capacity loss: its figures, networks and data that are not changed, its control."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from ppo_plasticity.capacity import (
    CapacityProbe,
    Fit,
    capacity_loss,
    categorical_kl,
    normal_kl,
    squared_error,
)

FIT = Fit(minibatch=32, epochs=10, optimizer_options={"lr": 3e-3})


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, outputs))


def observations(rows=256):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))


def capacity(module, obs, targets, loss=squared_error, **changes):
    generator = torch.Generator().manual_seed(0)
    fit = dataclasses.replace(FIT, **changes)
    return capacity_loss(module, obs, targets, loss=loss, generator=generator, fit=fit)


@pytest.mark.parametrize(
    ("loss", "outputs"), [(categorical_kl, 3), (normal_kl, 4), (squared_error, 1)]
)
def test_the_loss_of_a_fresh_network_decreases(loss, outputs):
    probe = CapacityProbe(network(outputs), observations(), loss=loss, fit=FIT)
    losses = probe.fresh[27].losses
    assert len(losses) == 8 * 10
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    assert probe.fresh[27].full_set < losses[0]


def test_all_figures_equal_the_loss_when_the_fit_does_not_learn():
    module, obs = network(1), observations()
    targets = module(obs).detach() + 2
    result = capacity(module, obs, targets, optimizer_options={"lr": 0.0})
    for figure in ("last_minibatch", "mean_last_tenth", "area", "full_set"):
        assert getattr(result, figure) == pytest.approx(4, rel=1e-5)


def test_figures_are_means_of_the_losses():
    result = capacity(network(), observations(), torch.zeros(256, 3), epochs=5)  # 40 steps
    assert result.last_minibatch == result.losses[-1]
    assert result.mean_last_tenth == pytest.approx(sum(result.losses[-4:]) / 4)
    assert result.area == pytest.approx(sum(result.losses) / 40)


def test_the_incomplete_minibatch_is_dropped_from_training_but_not_from_the_full_set():
    obs, targets = observations(70), torch.zeros(70, 3)
    targets[:] = 1000.0
    module = network()
    result = capacity(module, obs, targets, epochs=2, optimizer_options={"lr": 0.0})
    assert len(result.losses) == 2 * 2
    assert result.full_set == pytest.approx(squared_error(targets, module(obs)).mean().item())


def test_the_measured_network_is_not_changed():
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    CapacityProbe(module, observations(), loss=squared_error, fit=FIT).measure(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_global_generator_is_not_changed():
    module = network()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    CapacityProbe(module, observations(), loss=squared_error, fit=FIT)
    assert torch.equal(torch.rand(1), expected)


def test_uint8_memory_maps_give_the_losses_of_floats_in_memory(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (128, 4), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    targets = torch.zeros(128, 3)
    streamed = capacity(network(), mapped, targets, prepare=lambda rows: rows / 255)
    assert streamed == capacity(network(), torch.from_numpy(frames / np.float32(255)), targets)


def test_gradients_are_clipped():
    obs, targets = observations(), torch.full((256, 3), 1e6)
    free = capacity(network(), obs, targets, max_grad_norm=None)
    assert capacity(network(), obs, targets, max_grad_norm=1e-12).area > free.area


def test_every_target_seed_has_its_own_targets_and_control():
    probe = CapacityProbe(
        network(), observations(), loss=squared_error, target_seeds=(1, 2), fit=FIT
    )
    first, second = probe.measure(network())
    assert (first.target_seed, second.target_seed) == (1, 2)
    assert not torch.equal(probe.targets[1], probe.targets[2])
    assert first.fresh == probe.fresh[1] != second.fresh
    assert first.ratio == pytest.approx(first.network.full_set / first.fresh.full_set)


def test_measuring_twice_gives_equal_results():
    def measured():
        probe = CapacityProbe(network(), observations(), loss=categorical_kl, fit=FIT)
        return probe.measure(network())

    assert measured() == measured()


def test_a_fresh_network_has_a_ratio_near_one_and_a_dead_one_far_above():
    probe = CapacityProbe(network(), observations(), loss=squared_error, fit=FIT)
    dead = network()
    with torch.no_grad():
        dead[0].bias.fill_(-100)
    assert 0.5 < probe.measure(network())[0].ratio < 2
    assert probe.measure(dead)[0].ratio > 2


def test_too_few_observations_are_refused():
    with pytest.raises(ValueError, match="10 observations are less than one minibatch of 32"):
        capacity(network(), observations(10), torch.zeros(10, 3))


def test_layers_without_reset_parameters_are_named():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(4))

        def forward(self, inputs):
            return self.factor * inputs

    module = nn.Sequential(Scale(), network())
    with pytest.raises(ValueError, match=r"0 \(Scale\) has no reset_parameters"):
        CapacityProbe(module, observations(), loss=squared_error, fit=FIT)


# --- Divergences ---------------------------------------------------------------------------------

rows = st.lists(st.floats(-5, 5), min_size=4, max_size=4).map(lambda row: torch.tensor([row]))


@given(rows, rows)
def test_the_categorical_kl_is_that_of_torch(target, outputs):
    expected = kl_divergence(Categorical(logits=target), Categorical(logits=outputs))
    assert torch.allclose(categorical_kl(target, outputs), expected, atol=1e-5)


@given(rows, rows)
def test_the_normal_kl_is_that_of_torch(target, outputs):
    def normal(row):
        return Normal(row[:, :2], nn.functional.softplus(row[:, 2:] + math.log(math.e - 1)))

    expected = kl_divergence(normal(target), normal(outputs)).sum(-1)
    assert torch.allclose(normal_kl(target, outputs), expected, rtol=1e-3, atol=1e-4)


def test_a_raw_scale_of_zero_is_a_standard_deviation_of_one():
    target, outputs = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert normal_kl(target, outputs).item() == pytest.approx(2.0)  # 2² / 2


def test_the_squared_error_is_the_mean_over_outputs():
    assert squared_error(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).tolist() == [5.0]
