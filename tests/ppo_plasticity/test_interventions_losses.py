"""Interventions that add to the loss or change Adam."""

import math

import pytest
import torch
from torch import nn

from ppo_plasticity.interventions import LossInputs, ModuleHandle, parse


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def attached(text, network):
    intervention = parse(text)
    handle = ModuleHandle(network, torch.optim.Adam(network.parameters()))
    intervention.start(handle)
    return intervention, handle


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def squares(old, new):
    return (old - new).square().mean(-1)


def inputs(**given):
    zeros = torch.zeros(4, 2)
    names = ("outputs", "old_outputs", "preactivations", "old_preactivations")
    return LossInputs(**{**dict.fromkeys(names, zeros), "divergence": squares, **given})


def test_the_gradient_of_l2_is_twice_coef_times_the_weights():
    l2, handle = attached("l2:coef=0.3", network())
    l2.loss(handle, inputs()).backward()
    for parameter in handle.parameters.values():
        assert torch.allclose(parameter.grad, 2 * 0.3 * parameter)


def test_the_gradient_of_l2_init_is_twice_coef_times_the_change_since_the_initial_weights():
    module = network()
    initial = [parameter.detach().clone() for parameter in module.parameters()]
    l2_init, handle = attached("l2_init:coef=0.3", module)
    assert l2_init.loss(handle, inputs()) == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    l2_init.loss(handle, inputs()).backward()
    for parameter, before in zip(module.parameters(), initial, strict=True):
        assert torch.allclose(parameter.grad, 2 * 0.3 * (parameter - before))


@pytest.mark.parametrize("power", [1, 2])
def test_the_spectral_term_follows_from_the_largest_singular_values(power):
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))
    spectral, handle = attached(f"spectral:coef=0.5,power={power}", module)
    for _ in range(300):
        term = spectral.loss(handle, inputs())
    matrices = [module[at].weight.flatten(1) for at in (0, 2, 3)]
    largest = [torch.linalg.svdvals(matrix)[0] for matrix in matrices]
    expected = 0.5 * sum((value**power - 1) ** 2 for value in largest)
    assert term.item() == pytest.approx(expected.item(), rel=1e-4)
    expected.backward()
    by_svd = module[0].weight.grad.clone()
    module.zero_grad()
    term.backward()
    assert torch.allclose(module[0].weight.grad, by_svd, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4), (5, 5)])
def test_the_parseval_term_is_zero_on_orthogonal_layers(rows, columns):
    module = nn.Sequential(nn.Linear(columns, rows), nn.Tanh(), nn.Linear(rows, 1))
    nn.init.orthogonal_(module[0].weight)
    parseval, handle = attached("parseval:coef=1", module)
    assert parseval.loss(handle, inputs()) < 1e-9
    with torch.no_grad():
        module[0].weight.mul_(2)  # the diagonal becomes 4
    expected = 9.0 * min(rows, columns)
    assert parseval.loss(handle, inputs()).item() == pytest.approx(expected, rel=1e-5)


def test_churn_is_zero_if_reference_outputs_do_not_change():
    churn, handle = attached("churn:coef=2", network())
    same = torch.randn(4, 2)
    assert churn.loss(handle, inputs(reference_outputs=same, reference_old_outputs=same)) == 0
    moved = inputs(reference_outputs=same + 3, reference_old_outputs=same)
    assert churn.loss(handle, moved).item() == pytest.approx(2 * 9)
    assert churn.loss(handle, inputs()) == 0


def test_the_kl_penalty_is_the_mean_divergence_from_old_to_new():
    penalty, handle = attached("kl_penalty:coef=2", network())
    asymmetric = inputs(
        outputs=torch.full((4, 2), 3.0), divergence=lambda old, new: (2 * new - old).sum(-1)
    )
    assert penalty.loss(handle, asymmetric).item() == pytest.approx(2 * 12)


@pytest.mark.parametrize(("gap", "weight"), [(1.0, 2.0), (0.1, 1.0), (0.01, 0.5)])
def test_the_adaptive_kl_penalty_doubles_and_halves_around_its_target(gap, weight):
    penalty, handle = attached("kl_penalty:target=0.01", network())
    for _ in range(3):
        penalty.loss(handle, inputs(outputs=torch.full((4, 2), gap)))  # the divergence is gap²
    penalty.after_batch(handle, torch.zeros(4, 3))
    assert penalty.weight == weight


def test_a_fixed_kl_penalty_keeps_its_weight():
    penalty, handle = attached("kl_penalty:coef=3", network())
    penalty.loss(handle, inputs(outputs=torch.full((4, 2), 9.0)))
    penalty.after_batch(handle, torch.zeros(4, 3))
    assert (penalty.weight, penalty.seen) == (3, [])


def test_pfo_is_the_mean_square_per_row_and_unit():
    pfo, handle = attached("pfo:coef=10", network())
    moved = inputs(preactivations=torch.full((4, 8), 2.0), old_preactivations=torch.zeros(4, 8))
    assert pfo.loss(handle, moved).item() == pytest.approx(10 * 4)


def test_cosine_pfo_depends_on_directions_only():
    pfo, handle = attached("pfo:distance=cosine", network())
    moved = inputs(preactivations=torch.full((4, 8), 2.0), old_preactivations=torch.ones(4, 8))
    assert pfo.loss(handle, moved).item() == pytest.approx(-1)


# --- Adam ----------------------------------------------------------------------------------------


def test_equal_betas_replace_adams_betas_and_nothing_else():
    options = parse("adam_betas").optimizer_options({"lr": 0.1, "betas": (0.9, 0.999)})
    assert options == {"lr": 0.1, "betas": (0.9, 0.9)}


def adam_after(text, gradients):
    """Return Adam's single weight after one gradient per batch, from zero, lr 1."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    intervention = parse(text)
    optimizer = torch.optim.Adam(module.parameters(), lr=1.0)
    handle = ModuleHandle(module, optimizer)
    for gradient in gradients:
        module.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        intervention.after_batch(handle, torch.zeros(1, 1))
    return module.weight.item()


def test_after_a_reset_of_adam_the_first_step_has_the_size_of_the_learning_rate():
    assert adam_after("reset_adam", [1.0, 100.0]) == pytest.approx(-2, rel=1e-5)


def test_adam_rel_keeps_the_moments_and_corrects_bias_as_in_step_one():
    first = 0.9 * 0.1 * 1 + 0.1 * 100
    second = 0.999 * 0.001 * 1 + 0.001 * 100**2
    step = (first / (1 - 0.9)) / math.sqrt(second / (1 - 0.999))
    assert adam_after("adam_rel", [1.0, 100.0]) == pytest.approx(-1 - step, rel=1e-5)
