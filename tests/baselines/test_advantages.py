"""Advantages and returns against numbers worked out by hand."""

import pytest
import torch

from baselines.experience.advantages import gae, lambda_returns


def row(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def flags(*numbers):
    return torch.tensor(numbers, dtype=torch.bool)[:, None]


def test_gae_without_episode_ends():
    # delta_1 = 2 + 0.5 * 8 - 4 = 2;  delta_0 = 1 + 0.5 * 4 - 2 = 1;  A_0 = 1 + 0.25 * 2
    advantages = gae(row(1, 2), row(2, 4, 8), flags(0, 0), flags(0, 0), gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(advantages, row(1.5, 2))


def test_gae_drops_the_value_after_termination():
    # Step 1 ends the battle; row 2 is its reset row, row 3 begins the next battle.
    rewards, values = row(1, 2, 0, 5), row(2, 4, 100, 6, 8)
    done = flags(0, 1, 0, 0)
    advantages = gae(rewards, values, done, done, gamma=0.5, gae_lambda=0.5)
    # A_1 = 2 - 4;  A_0 = 1 + 0.5 * 4 - 2 + 0.25 * A_1;  A_3 = 5 + 0.5 * 8 - 6
    torch.testing.assert_close(advantages[[0, 1, 3]], row(0.5, -2, 3))


def test_gae_bootstraps_a_truncated_battle_from_its_true_last_observation():
    rewards, values = row(1, 2, 0, 5), row(2, 4, 10, 6, 8)
    done = flags(0, 1, 0, 0)
    advantages = gae(rewards, values, torch.zeros_like(done), done, gamma=0.5, gae_lambda=0.5)
    # A_1 = 2 + 0.5 * 10 - 4 with V(s_T) = 10 from the reset row, and nothing from beyond it.
    torch.testing.assert_close(advantages[[0, 1, 3]], row(1.75, 3, 3))


def test_gae_equals_the_sum_of_discounted_deltas():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(9, 4, generator=generator, dtype=torch.float64)
    values = torch.rand(10, 4, generator=generator, dtype=torch.float64)
    done = torch.rand(9, 4, generator=generator) < 0.3
    terminated = done & (torch.rand(9, 4, generator=generator) < 0.5)
    found = gae(rewards, values, terminated, done, gamma=0.9, gae_lambda=0.8)
    for env in range(4):
        for start in range(9):
            total, factor = 0.0, 1.0
            for step in range(start, 9):
                bootstrap = 0.0 if terminated[step, env] else 0.9 * values[step + 1, env]
                total += factor * (rewards[step, env] + bootstrap - values[step, env])
                if done[step, env]:
                    break
                factor *= 0.9 * 0.8
            torch.testing.assert_close(found[start, env], torch.as_tensor(total))


def test_lambda_returns_between_one_step_and_the_whole_episode():
    # G_2 = 3 + 0.5 * 6;  G_1 = 2 + 0.5 * (0.75 * 4 + 0.25 * 6);  G_0 = 1 + 0.5 * (1.5 + 0.25 * G_1)
    goes_on = flags(0, 0, 0)
    returns = lambda_returns(
        row(1, 2, 3), row(2, 4, 6), goes_on, goes_on, gamma=0.5, td_lambda=0.25
    )
    torch.testing.assert_close(returns, row(2.28125, 4.25, 6))


def test_lambda_0_is_the_one_step_target():
    done, terminated = flags(0, 1, 0, 1), flags(0, 1, 0, 0)
    returns = lambda_returns(
        row(1, 2, 4, 8), row(10, 20, 30, 40), terminated, done, gamma=0.5, td_lambda=0
    )
    torch.testing.assert_close(returns, row(1 + 5, 2, 4 + 15, 8 + 20))


def test_lambda_1_is_the_discounted_return_and_bootstraps_truncated_episodes_only():
    done, terminated = flags(0, 1, 0, 1), flags(0, 1, 0, 0)
    returns = lambda_returns(
        row(1, 2, 4, 8), row(10, 20, 30, 40), terminated, done, gamma=0.5, td_lambda=1
    )
    # The first episode is terminated: 1 + 0.5 * 2.  The second is cut off where V = 40.
    torch.testing.assert_close(returns, row(2, 2, 4 + 0.5 * 28, 8 + 20))


@pytest.mark.parametrize("td_lambda", [0.0, 0.4, 1.0])
def test_lambda_returns_are_gae_of_the_same_lambda_plus_the_values(td_lambda):
    """Without reset rows inside, both are the same average of n-step returns."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(9, 4, generator=generator, dtype=torch.float64)
    values = torch.rand(10, 4, generator=generator, dtype=torch.float64)
    done = torch.rand(9, 4, generator=generator) < 0.3
    terminated = done & (torch.rand(9, 4, generator=generator) < 0.5)
    returns = lambda_returns(rewards, values[1:], terminated, done, gamma=0.9, td_lambda=td_lambda)
    advantages = gae(rewards, values, terminated, done, gamma=0.9, gae_lambda=td_lambda)
    torch.testing.assert_close(returns, advantages + values[:-1])
