"""The team's value: it rises with every agent's, and follows its formula."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from baselines.networks.action_values import MonotonicMixer, NoMixer, SumMixer, make_mixer

NUMBERS = st.floats(-100, 100, width=32)
SEEDS = st.integers(0, 2**32 - 1)


def mixer_of(seed, num_agents=3, state_size=4):
    torch.manual_seed(seed)
    return MonotonicMixer(num_agents, state_size, mixer_size=5, hypernet_size=6)


@settings(max_examples=50)
@given(
    seed=SEEDS,
    values=st.lists(NUMBERS, min_size=3, max_size=3),
    state=st.lists(NUMBERS, min_size=4, max_size=4),
)
def test_the_teams_value_never_falls_when_an_agents_rises(seed, values, state):
    values = torch.tensor([values], requires_grad=True)
    mixer_of(seed)(values, torch.tensor([state])).sum().backward()
    assert (values.grad >= 0).all()


def test_the_best_joint_action_is_each_agents_best_action():
    """Any grid of values: the largest team value stands where each agent's value is largest."""
    mixer, state = mixer_of(1), torch.randn(1, 4)
    options = torch.randn(3, 4)  # each agent's values of four actions
    joint = torch.cartesian_prod(*options)
    mixed = mixer(joint, state.expand(len(joint), -1))[:, 0]
    assert torch.equal(joint[mixed.argmax()], options.amax(1))


def test_the_monotonic_mixer_follows_its_formula():
    mixer = MonotonicMixer(2, 1, mixer_size=2, hypernet_size=1)
    for parameter in mixer.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        mixer.w1[0].weight.fill_(1.0)  # relu(state)
        mixer.w1[2].weight.copy_(torch.tensor([[1.0], [-2.0], [-3.0], [0.5]]))
        mixer.b1.bias.copy_(torch.tensor([0.0, -8.0]))
        mixer.w2[2].bias.copy_(torch.tensor([-1.0, 2.0]))
        mixer.b2[0].bias.fill_(1.0)
        mixer.b2[2].weight.fill_(0.125)
    # In state 2: w1 = |2 * ((1, -2), (-3, 0.5))|, rows by agent; w1 q + b1 with q = (1, 0.5):
    # 2 * 1 + 6 * 0.5 = 5 and 4 * 1 + 1 * 0.5 - 8 = -3.5; w2 = (1, 2), b2 = 2 * 0.125.
    wanted = 1 * 5 + 2 * (math.exp(-3.5) - 1) + 0.25
    found = mixer(torch.tensor([[1.0, 0.5]]), torch.tensor([[2.0]]))
    assert found.tolist() == [[pytest.approx(wanted)]]


def test_rows_are_mixed_each_in_its_own_state():
    mixer, values, state = mixer_of(0), torch.randn(7, 3), torch.randn(7, 4)
    one_by_one = [mixer(values[row : row + 1], state[row : row + 1]) for row in range(7)]
    torch.testing.assert_close(mixer(values, state), torch.cat(one_by_one))


def test_vdn_sums_and_independent_learners_mix_nothing():
    values, state = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 0.5]]), torch.randn(2, 4)
    assert SumMixer()(values, state).tolist() == [[7.0], [-0.5]]
    assert torch.equal(NoMixer()(values, state), values)
    assert not list(SumMixer().parameters()) + list(NoMixer().parameters())


@pytest.mark.parametrize(
    ("kind", "mixer", "shape"),
    [("monotonic", MonotonicMixer, (2, 1)), ("sum", SumMixer, (2, 1)), ("none", NoMixer, (2, 3))],
)
def test_each_name_gives_its_mixer(kind, mixer, shape):
    made = make_mixer(kind, 3, 4, 8, 8)
    assert type(made) is mixer
    assert made(torch.randn(2, 3), torch.randn(2, 4)).shape == shape
