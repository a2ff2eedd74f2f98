"""Named sets of defaults: flags win, every field exists, the paper's numbers are the paper's."""

import dataclasses

import pytest

from baselines.algorithms import ALGORITHMS
from baselines.cli import training_config
from baselines.config import PpoConfig
from baselines.errors import UsageError
from baselines.profiles import ATARI, CONTINUOUS, OTHER, PPO, kind_of

EACH = pytest.mark.parametrize(
    ("profile", "kind"), [(name, kind) for name, kinds in PPO.items() for kind in kinds]
)


def config(*arguments):
    """Return the config that `baselines ppo` would run with these flags."""
    return training_config("ppo", arguments)


@EACH
def test_profiles_set_fields_of_the_config_to_values_that_a_run_can_use(profile, kind):
    fields = {field.name: field for field in dataclasses.fields(PpoConfig)}
    for name, value in PPO[profile][kind].items():
        assert type(value) is type(fields[name].default), name
    PpoConfig(**PPO[profile][kind])
    assert set(PPO[profile]) == {ATARI, CONTINUOUS, OTHER}


@pytest.mark.parametrize(
    ("env_id", "kind"),
    [
        ("ALE/Pong-v5", ATARI),
        ("ale_py:ALE/NameThisGame-v5", ATARI),
        ("Hopper-v5", CONTINUOUS),
        ("HumanoidStandup-v4", CONTINUOUS),
        ("CartPole-v1", OTHER),
        ("my_package:Walker-v0", OTHER),
    ],
)
def test_the_id_tells_the_kind_of_environment(env_id, kind):
    assert kind_of(env_id) == kind


def test_flags_win_over_the_profile_whatever_their_order():
    assert config("--profile", "paper", "--env", "ALE/Pong-v5").num_envs == 8
    for arguments in (["--num-envs", "3", "--profile=paper"], ["--profile=paper", "--num-envs=3"]):
        made = config(*arguments, "--env=ALE/Pong-v5")
        assert (made.num_envs, made.num_steps, made.profile) == (3, 128, "paper")


def test_the_last_profile_counts_as_the_last_flag_does():
    assert config("--profile", "paper", "--profile", "fast").snapshots == 0


def test_without_a_profile_it_is_cleanrls():
    for env_id in ("ALE/Pong-v5", "Hopper-v5", "CartPole-v1"):
        assert config("--env", env_id) == config("--env", env_id, "--profile", "cleanrl")


def test_cleanrls_continuous_numbers():
    """CleanRL's ppo_continuous_action.py."""
    made = config("--env", "Hopper-v5")
    assert (made.learning_rate, made.num_envs, made.num_steps) == (3e-4, 1, 2048)
    assert (made.update_epochs, made.num_minibatches, made.clip_coef) == (10, 32, 0.2)
    assert (made.ent_coef, made.vf_coef, made.max_grad_norm) == (0.0, 0.5, 0.5)
    assert (made.gamma, made.gae_lambda, made.adam_eps) == (0.99, 0.95, 1e-5)
    assert (made.obs_norm, made.obs_clip, made.reward_norm, made.reward_clip) == (
        *("running", 10.0),
        *("running", 10.0),
    )


def test_cleanrls_atari_numbers():
    """CleanRL's ppo_atari.py."""
    made = config("--env", "ALE/Breakout-v5")
    assert (made.learning_rate, made.num_envs, made.num_steps) == (2.5e-4, 8, 128)
    assert (made.update_epochs, made.num_minibatches, made.clip_coef) == (4, 4, 0.1)
    assert (made.ent_coef, made.vf_coef) == (0.01, 0.5)
    assert (made.noop_max, made.frame_skip, made.max_pool, made.sticky) == (30, 4, True, 0.0)
    assert made.episodic_life
    assert made.fire_reset
    assert made.reward_norm == "sign"


def test_the_papers_numbers():
    """Moalla et al. 2024, tables of hyperparameters."""
    pong = config("--profile", "paper", "--env", "ALE/Pong-v5")
    assert (pong.num_envs, pong.num_steps, pong.update_epochs) == (8, 128, 4)
    assert pong.num_envs * pong.num_steps // pong.num_minibatches == 256
    assert (pong.clip_coef, pong.ent_coef, pong.learning_rate) == (0.1, 0.01, 2.5e-4)
    assert (pong.sticky, pong.noop_max, pong.max_pool, pong.frame_skip) == (0.25, 0, False, 3)
    hopper = config("--profile", "paper", "--env", "Hopper-v5")
    assert hopper.num_envs * hopper.num_steps == 2048
    assert hopper.num_envs * hopper.num_steps // hopper.num_minibatches == 64
    assert (hopper.update_epochs, hopper.clip_coef, hopper.ent_coef) == (10, 0.2, 0.0)
    for made in (pong, hopper):
        assert (made.anneal_lr, made.clip_vloss, made.init) == (False, False, "pytorch")
        assert (made.gamma, made.gae_lambda) == (0.99, 0.95)
        assert (made.norm_adv, made.snapshots, made.clip_grad_apart) == ("biased", 41, True)


def test_the_fixed_papers_profile_differs_in_what_was_wrong_alone():
    for env_id, repaired in (
        ("ALE/Pong-v5", {"profile", "step_trunk_twice", "timeout_is_terminal"}),
        ("Hopper-v5", {"profile", "step_trunk_twice", "timeout_is_terminal", "policy"}),
    ):
        published, fixed = (
            dataclasses.asdict(config("--env", env_id, "--profile", name))
            for name in ("paper", "paper_fixed")
        )
        assert {name for name in fixed if fixed[name] != published[name]} == repaired


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown profile 'papper'. Did you mean 'paper'\?"):
        ALGORITHMS["ppo"].defaults(["--profile", "papper"])
