"""Distributions over actions against closed forms and torch.distributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions
from torch.distributions import AffineTransform, Independent, TanhTransform, TransformedDistribution

from baselines.networks.distributions import (
    MIN_STD,
    AtanhNormal,
    Categorical,
    Normal,
    TanhNormal,
    make_distribution,
)

LOW, HIGH = torch.tensor([-1.0, -3.0], dtype=torch.double), torch.tensor([1.0, 2.0]).double()
POLICIES = pytest.mark.parametrize("kind", [Normal, TanhNormal, AtanhNormal])
SEEDS = st.integers(0, 10_000)


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.double)


def close(actual, wanted, tolerance=1e-9):
    torch.testing.assert_close(actual, wanted, atol=tolerance, rtol=tolerance)


@given(SEEDS)
def test_categorical_agrees_with_torch(seed):
    logits, other = draw(2, 5, 4, seed=seed), draw(2, 5, 4, seed=seed + 1)
    theirs, ours = distributions.Categorical(logits=logits), Categorical(4)
    actions = torch.randint(4, (2, 5, 1), generator=torch.Generator().manual_seed(seed))
    close(ours.log_prob(logits, actions.float()), theirs.log_prob(actions[..., 0]))
    close(ours.entropy(logits, actions), theirs.entropy())
    divergence = distributions.kl_divergence(theirs, distributions.Categorical(logits=other))
    close(ours.kl(logits, other), divergence)
    close(ours.parameters(logits)[0], theirs.probs)
    assert torch.equal(ours.mode(logits)[..., 0], theirs.mode.float())


def test_gumbel_max_draws_actions_at_their_probability():
    ours, logits = Categorical(4), torch.tensor([0.0, 1.0, 2.0, -30.0])
    noise = ours.draw_noise((40_000,), torch.Generator().manual_seed(0))
    actions = ours.to_env(ours.sample(logits, noise))
    rates = torch.bincount(actions, minlength=4) / len(actions)
    torch.testing.assert_close(rates, logits.softmax(-1), atol=0.01, rtol=0)
    assert actions.dtype == torch.int64


@given(SEEDS)
def test_normal_agrees_with_torch(seed):
    outputs, other = draw(3, 5, 4, seed=seed), draw(3, 5, 4, seed=seed + 1)
    raw, ours = draw(3, 5, 2, seed=seed + 2), Normal(LOW, HIGH)

    def theirs(outputs):
        mean, log_std = outputs.chunk(2, -1)
        return Independent(distributions.Normal(mean, log_std.exp()), 1)

    close(ours.log_prob(outputs, raw), theirs(outputs).log_prob(raw))
    close(ours.entropy(outputs, raw), theirs(outputs).entropy())
    divergence = distributions.kl_divergence(theirs(outputs), theirs(other))
    close(ours.kl(outputs, other), divergence)
    close(ours.kl(outputs, outputs), torch.zeros(3, 5, dtype=torch.double))


def squashed(ours, outputs):
    """Return torch's distribution of the actions that the environment gets."""
    mean, std = ours.split(outputs)
    stretch = AffineTransform((HIGH + LOW) / 2, (HIGH - LOW) / 2)
    normal = distributions.Normal(mean, std)
    return Independent(TransformedDistribution(normal, [TanhTransform(), stretch]), 1)


@given(SEEDS)
def test_tanh_normal_agrees_with_torchs_transformed_normal(seed):
    outputs, raw, ours = draw(6, 4, seed=seed), draw(6, 2, seed=seed + 1), TanhNormal(LOW, HIGH)
    theirs = squashed(ours, outputs).log_prob(ours.to_env(raw))
    close(ours.log_prob(outputs, raw), theirs, 1e-6)
    close(ours.entropy(outputs, raw), -theirs, 1e-6)


def test_kl_of_squashed_normals_is_that_of_the_normals():
    old, new, ours = draw(5, 4), draw(5, 4, seed=1), TanhNormal(LOW, HIGH)
    before, after = (distributions.Normal(*ours.split(outputs)) for outputs in (old, new))
    close(ours.kl(old, new), distributions.kl_divergence(before, after).sum(-1))


@given(st.floats(-6.9, 6.9), st.floats(-6.9, 6.9))
def test_published_log_probability_is_exact_up_to_seven(first, second):
    outputs, raw = draw(4), torch.tensor([first, second], dtype=torch.double)
    exact = TanhNormal(LOW, HIGH).log_prob(outputs, raw)
    close(AtanhNormal(LOW, HIGH).log_prob(outputs, raw), exact, 1e-6)


def test_published_log_probability_counts_what_lies_beyond_as_seven_and_a_quarter():
    outputs = draw(4)
    limit = math.atanh(1 - 1e-6)
    assert limit == pytest.approx(7.25, abs=0.01)
    for sign in (1, -1):
        edge = torch.full((2,), sign * limit, dtype=torch.double)
        wanted = TanhNormal(LOW, HIGH).log_prob(outputs, edge)
        for raw in (7.26, 9.0, 40.0):
            far = torch.full((2,), sign * raw, dtype=torch.double)
            close(AtanhNormal(LOW, HIGH).log_prob(outputs, far), wanted, 1e-6)


def test_published_log_ratios_explode_where_the_mean_runs_away():
    ours, exact = AtanhNormal(LOW, HIGH), TanhNormal(LOW, HIGH)
    old, new = torch.zeros(4).double(), torch.tensor([30.0, 30.0, 0, 0]).double()
    raw = torch.full((2,), 30.0, dtype=torch.double)  # where the new mean stands
    published = ours.log_prob(new, raw) - ours.log_prob(old, raw)
    # By hand: (7.25^2 - (30 - 7.25)^2) / 2 for each number, where 30^2 / 2 is true.
    limit = math.atanh(1 - 1e-6)
    assert float(published) == pytest.approx(limit**2 - (30 - limit) ** 2, rel=1e-6)
    assert float(exact.log_prob(new, raw) - exact.log_prob(old, raw)) == pytest.approx(900)


def test_standard_deviation_is_one_at_zero_and_never_below_its_floor():
    ours = TanhNormal(LOW, HIGH)
    _, std = ours.split(torch.zeros(4))
    torch.testing.assert_close(std, torch.ones(2))
    _, std = ours.split(torch.full((4,), -1e4))
    assert torch.equal(std, torch.full((2,), MIN_STD))
    _, std = Normal(LOW, HIGH).split(torch.zeros(4))
    assert torch.equal(std, torch.ones(2))


@POLICIES
def test_samples_have_the_mean_and_deviation_of_the_outputs(kind):
    ours, outputs = kind(LOW, HIGH), torch.tensor([0.5, -2.0, 0.3, -0.7])
    noise = ours.draw_noise((100_000,), torch.Generator().manual_seed(0))
    raw = ours.sample(outputs, noise)
    mean, std = ours.split(outputs)
    torch.testing.assert_close(raw.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(raw.std(0), std, atol=0, rtol=0.02)
    torch.testing.assert_close(ours.mode(outputs), mean)


def test_squashed_samples_entropy_is_the_entropy_on_average():
    ours, outputs = TanhNormal(LOW, HIGH), torch.tensor([0.5, -1.0, 0.3, -0.7]).double()
    noise = ours.draw_noise((100_000,), torch.Generator().manual_seed(0)).double()
    raw = ours.sample(outputs, noise)
    # H = H(normal) + E log |d action / d raw|, the second by quadrature.
    mean, std = ours.split(outputs)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.double)[:, None]
    density = distributions.Normal(mean, std).log_prob(grid).exp()
    slope = (1 - grid.tanh().square()).clamp(min=1e-300).log() + ((HIGH - LOW) / 2).log()
    wanted = distributions.Normal(mean, std).entropy() + torch.trapezoid(
        density * slope, grid, dim=0
    )
    estimate = ours.entropy(outputs, raw).mean()
    assert float(estimate) == pytest.approx(float(wanted.sum()), abs=0.02)


@POLICIES
@given(raw=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2))
def test_actions_stay_within_the_bounds(kind, raw):
    ours = kind(LOW.float(), HIGH.float())
    actions = ours.to_env(torch.tensor(raw))
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()


def test_actions_reach_the_bounds_and_their_middle():
    ours = TanhNormal(LOW, HIGH)
    close(ours.to_env(torch.full((2,), 50.0).double()), HIGH)
    close(ours.to_env(torch.full((2,), -50.0).double()), LOW)
    close(ours.to_env(torch.zeros(2).double()), torch.tensor([0.0, -0.5]).double())
    clipped = Normal(LOW, HIGH).to_env(torch.tensor([0.25, -9.0]).double())
    close(clipped, torch.tensor([0.25, -3.0]).double())


def test_the_policy_names_its_distribution_and_discrete_actions_ignore_it():
    bounds = (LOW, HIGH)
    names = {"normal": Normal, "tanh_normal": TanhNormal, "tanh_normal_atanh": AtanhNormal}
    for name, kind in names.items():
        made = make_distribution(name, 2, bounds)
        assert type(made) is kind
        assert (made.raw_size, made.num_outputs) == (2, 4)
        assert type(make_distribution(name, 3, None)) is Categorical


@POLICIES
@given(seed=SEEDS, rows=st.integers(1, 40), size=st.integers(1, 5))
def test_seeds_computed_together_get_what_each_gets_alone(kind, seed, rows, size):
    distribution = kind(-torch.ones(size), torch.ones(size))
    outputs = draw(3, rows, 2 * size, seed=seed).float()
    raw = draw(3, rows, size, seed=seed + 1).float()
    for function in (distribution.log_prob, distribution.sample):
        together = function(outputs, raw)
        for index in range(3):
            own = slice(index, index + 1)
            assert torch.equal(together[own], function(outputs[own].clone(), raw[own].clone()))
