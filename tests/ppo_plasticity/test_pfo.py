"""PFO's loss and gradient against formulas by hand, and its clip form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppo_plasticity.pfo import pfo_keep, pfo_loss
from ppo_plasticity.probe import capture_preactivations

NEW = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]], dtype=torch.float64)
OLD = torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, 4.0]], dtype=torch.float64)


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_l2_loss_is_a_mean_over_rows_and_units():
    assert pfo_loss(NEW, OLD) == pytest.approx((4 + 1 + 9 + 16) / 6)


def test_the_cosine_loss_is_minus_the_mean_cosine():
    expected = -(1 / 5**0.5 + 1 / 2**0.5 + 0) / 3
    assert pfo_loss(NEW, OLD, distance="cosine") == pytest.approx(expected)


@given(st.integers(0, 2**31))
def test_the_l2_gradient_is_twice_the_difference_over_the_number_of_entries(seed):
    new, old = random(5, 7, seed=seed).requires_grad_(), random(5, 7, seed=seed + 1)
    (gradient,) = torch.autograd.grad(pfo_loss(new, old), new)
    torch.testing.assert_close(gradient, 2 * (new.detach() - old) / 35)


@given(st.integers(0, 2**31))
def test_the_cosine_gradient_is_the_old_direction_minus_its_projection_on_the_new(seed):
    new, old = random(5, 7, seed=seed).requires_grad_(), random(5, 7, seed=seed + 1)
    (gradient,) = torch.autograd.grad(pfo_loss(new, old, distance="cosine"), new)
    size = new.detach().norm(dim=1, keepdim=True)
    direction, target = new.detach() / size, old / old.norm(dim=1, keepdim=True)
    along = (direction * target).sum(1, keepdim=True) * direction
    torch.testing.assert_close(gradient, -(target - along) / size / 5)


def test_the_gradient_of_a_layers_weights_equals_one_computed_by_hand():
    layer = nn.Linear(3, 2, dtype=torch.float64)
    inputs, old = random(4, 3, seed=0), random(4, 2, seed=1)
    pfo_loss(layer(inputs), old).backward()
    difference = (inputs @ layer.weight.T + layer.bias - old).detach()
    torch.testing.assert_close(layer.weight.grad, 2 * difference.T @ inputs / 8)
    torch.testing.assert_close(layer.bias.grad, 2 * difference.sum(0) / 8)


def test_no_gradient_reaches_the_old_preactivations():
    new, old = NEW.clone().requires_grad_(), OLD.clone().requires_grad_()
    pfo_loss(new, old).backward()
    assert old.grad is None


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_invalid_rows_give_neither_loss_nor_gradient(distance):
    new = torch.cat([NEW, torch.full((1, 2), torch.nan)]).requires_grad_()
    old = torch.cat([OLD, torch.ones(1, 2)])
    valid = torch.tensor([True, True, True, False])
    loss = pfo_loss(new, old, distance=distance, valid=valid)
    torch.testing.assert_close(loss, pfo_loss(NEW, OLD, distance=distance))
    loss.backward()
    assert (new.grad[3] == 0).all()
    assert new.grad[:3].isfinite().all()


def test_weights_make_rows_count_more_or_less():
    weights = torch.tensor([1.0, 3.0, 0.0])
    assert pfo_loss(NEW, OLD, valid=weights) == pytest.approx((1 * 2 + 3 * 0.5) / 4)


def test_a_minibatch_without_valid_rows_has_loss_zero():
    assert pfo_loss(NEW, OLD, valid=torch.zeros(3, dtype=torch.bool)) == 0


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_leading_dimensions_have_their_own_loss(distance):
    new, old = random(2, 3, 5, 4, seed=0), random(2, 3, 5, 4, seed=1)
    together = pfo_loss(new, old, distance=distance)
    assert together.shape == (2, 3)
    torch.testing.assert_close(together[1, 2], pfo_loss(new[1, 2], old[1, 2], distance=distance))


def test_the_clip_form_keeps_rows_that_moved_little():
    old = torch.zeros(3, 2, dtype=torch.float64)
    new = torch.tensor([[0.3, 0.0], [0.5, 0.0], [torch.nan, 0.0]], dtype=torch.float64)
    assert pfo_keep(new, old).tolist() == [True, False, False]  # 0.045 and 0.125 of 0.1
    assert pfo_keep(new, old, threshold=0.2).tolist() == [True, True, False]


def test_the_clip_form_keeps_rows_with_nearly_the_same_direction():
    old = torch.tensor([[1.0, 0.0]] * 2)
    new = torch.tensor([[3.0, 1.0], [1.0, 1.0]])  # cosines 0.95 and 0.71
    assert pfo_keep(new, old, distance="cosine").tolist() == [True, False]
    assert pfo_keep(new, old, distance="cosine", threshold=0.7).tolist() == [True, True]


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match='unknown distance \'l1\'; use "l2" or "cosine"'):
        pfo_loss(NEW, OLD, distance="l1")


@pytest.mark.parametrize(("layers", "reached"), [("last", "2"), ("all", "0"), (["0"], "0")])
def test_captured_preactivations_carry_gradient_through_in_place_activations(layers, reached):
    module = nn.Sequential(
        nn.Linear(3, 4),
        nn.ReLU(inplace=True),
        nn.Linear(4, 5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 2),
    ).double()
    inputs = random(6, 3, seed=0)
    first = module[0](inputs)
    second = module[2](first.relu())
    expected = {"last": second, "all": torch.cat([first, second], 1)}.get(str(layers), first)
    with capture_preactivations(module, layers) as captured:
        module(inputs)
    torch.testing.assert_close(captured.preactivations, expected)
    old = random(*expected.shape, seed=1)
    wanted = torch.autograd.grad(pfo_loss(expected, old), module.get_submodule(reached).weight)
    found = torch.autograd.grad(
        pfo_loss(captured.preactivations, old), module.get_submodule(reached).weight
    )
    torch.testing.assert_close(found, wanted)


def test_a_layer_given_as_text_is_refused():
    with pytest.raises(ValueError, match='must be "last", "all" or a list of names, not \'2\''):
        with capture_preactivations(nn.Linear(1, 1), "2"):
            pass
