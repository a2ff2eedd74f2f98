"""The toy problem: the paper's numbers, and clipping that works only for full-rank features."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ppo_plasticity import toy

GOLDEN = {  # alpha: old probability in y, then (r_x, r_y) after 4, 10 and 20 steps
    3.0: (0.583, (1.042, 1.108), (1.068, 1.173), (1.103, 1.253)),
    -2.0: (0.445, (0.976, 1.058), (0.938, 1.146), (0.941, 1.141)),
    -1.0: (0.472, (0.998, 1.002), (0.995, 1.006), (0.989, 1.012)),
}


@pytest.mark.parametrize("alpha", toy.ALPHAS)
def test_the_ratios_of_the_two_states_are_those_of_the_paper(alpha):
    old_y, *ratios = GOLDEN[alpha]
    run = toy.two_states(alpha)
    assert run.feature == pytest.approx(0.116, abs=0.002)
    assert run.old_probabilities == pytest.approx((0.528, old_y), abs=0.002)
    for step, pair in zip(toy.SHOWN_STEPS, ratios, strict=True):
        assert run.ratios[step] == pytest.approx(pair, abs=0.002)


def test_aligned_features_keep_moving_a_clipped_state():
    steps = toy.two_states(3.0).ratios
    assert steps[3][1] > 1.1  # y is clipped from here
    assert steps[20][1] > steps[3][1] + 0.1
    assert steps[20] == steps[17]  # until x is clipped, too


def test_opposed_features_push_the_other_state_down():
    ratios = toy.two_states(-2.0).ratios
    assert min(x for x, _ in ratios) == pytest.approx(0.938, abs=0.002)


def test_the_global_generator_is_not_changed():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    toy.two_states(3.0)
    toy.ranks([2], passes=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture(scope="module")
def results():
    return {result.rank: result for result in toy.ranks()}


def test_clipping_holds_for_every_state_at_full_rank(results):
    full = results[32]
    assert (full.above, full.below) == (0.0, 0.0)
    assert full.max_ratio == pytest.approx(1.119, abs=0.001)  # the clip and one step


@pytest.mark.parametrize("rank", [1, 2, 4, 8, 16])
def test_clipping_leaks_below_full_rank(results, rank):
    assert results[rank].above > 0.05
    assert results[rank].below > 0.03
    assert results[rank].max_ratio > 1.19


probability = st.floats(0.05, 0.95)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.1, 2), probability)
def test_a_step_is_that_of_autograd_on_the_clipped_objective(first, second, size, old):
    weights = torch.tensor([[first], [second]], dtype=torch.float64, requires_grad=True)
    feature = torch.tensor([size], dtype=torch.float64)
    ratio = torch.softmax(weights @ feature, 0)[0] / old
    (-torch.minimum(ratio, ratio.clamp(max=1.1))).backward()
    expected = (weights - 0.5 * weights.grad).detach()
    stepped = weights.detach().clone()[None]
    toy.clipped_step(stepped, feature[None], torch.tensor([old], dtype=torch.float64), 0.5)
    assert torch.allclose(stepped[0], expected)


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    toy.draw([toy.two_states(3.0)], toy.ranks([1, 2], passes=1), tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
