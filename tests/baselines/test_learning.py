"""Each learner wins games that need its agents to act together: a matrix game and a real battle."""

import pytest
from battle3v2 import BATTLE
from matrix_game import MATRIX_GAME
from small_runs import make_learner

import smacv2
from baselines.cli import training_config
from baselines.config import EvaluateConfig
from baselines.evaluation import play
from baselines.experience.battles import make_battles

QUICK_QMIX = (
    *("qmix", "--num-envs", "32", "--batch-episodes", "32", "--td-lambda", "0.8"),
    *("--target-update-episodes", "64", "--epsilon-steps", "10000", "--anneal-lr"),
)
QUICK_PQN = ("pqn", "--num-envs", "64", "--learning-rate", "5e-4", "--epsilon-steps", "30000")
QUICK_MAPPO = ("mappo", "--num-envs", "64", "--num-steps", "32", "--learning-rate", "2e-3")

# name: command and flags, environment steps of the matrix game and of the battle
LEARNERS = {
    "QMIX": (QUICK_QMIX, 10_000, 25_000),
    "VDN": ((*QUICK_QMIX, "--mixer", "sum"), 10_000, 25_000),
    "IQL": ((*QUICK_QMIX, "--mixer", "none"), 10_000, 25_000),
    "PQN": (QUICK_PQN, 40_000, 100_000),
    "PQN-VDN": ((*QUICK_PQN, "--mixer", "sum"), 40_000, 100_000),
    "MAPPO": (QUICK_MAPPO, 20_000, 40_000),
    "IPPO": ((*QUICK_MAPPO, "--critic-input", "obs"), 20_000, 40_000),
}
PUBLISHED = {
    "QMIX": (("qmix", "--profile", "smacv2_paper", "--epsilon-steps", "15000"), 25_000),
    "MAPPO": (("mappo", "--profile", "smacv2_paper"), 40_000),
}
SMALL = ("--hidden-size", "16", "--learning-rate", "3e-3")  # for the matrix game
EACH = pytest.mark.parametrize("name", LEARNERS)


def trained(arguments, steps, *flags):
    """Return a learner after so many steps."""
    command, *given = arguments
    given += ["--total-steps", str(steps), "--num-threads", "1", *flags]
    learner = make_learner(command, training_config(command, given))
    while learner.global_step < steps:
        learner.iterate()
    return learner


def greedy_battles(learner):
    """Return 128 held-out battles played without exploration."""
    agent = getattr(learner.network, "agent", learner.network)
    battles = make_battles(learner.config, 64)
    return play(battles, agent, EvaluateConfig("", episodes=128), smacv2.EVALUATION_SEED)


@EACH
def test_each_learner_solves_the_matrix_game(name):
    arguments, steps, _ = LEARNERS[name]
    learner = trained(arguments, steps, "--env", MATRIX_GAME, *SMALL)
    assert set(greedy_battles(learner).episodic_return) == {8.0}


@pytest.mark.parametrize(("mixer", "best"), [("monotonic", 8.0), ("sum", 7.0)])
def test_the_monotonic_mixer_finds_the_payoff_that_a_sum_cannot_represent(mixer, best):
    """Rashid et al. 2018, section 5: with a safe payoff of 7, from random play alone."""
    arguments = (*QUICK_QMIX, "--mixer", mixer, "--td-lambda", "0", "--epsilon-end", "1")
    learner = trained(arguments, 8000, "--env", MATRIX_GAME, "--env-option", "safe=7.0", *SMALL)
    assert set(greedy_battles(learner).episodic_return) == {best}


@EACH
def test_each_learner_wins_three_marines_against_two(name):
    arguments, _, steps = LEARNERS[name]
    assert greedy_battles(trained(arguments, steps, "--env", BATTLE)).battle_won.mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_win_three_marines_against_two(name):
    arguments, steps = PUBLISHED[name]
    assert greedy_battles(trained(arguments, steps, "--env", BATTLE)).battle_won.mean() >= 0.9
