"""One contract for environments of any source: what PPO relies on, checked on real ones."""

import sys

import gymnasium
import numpy as np
import pytest

from baselines.cli import main
from baselines.config import PpoConfig
from baselines.experience.episodes import choose_source, make_vector_env

ENVS = {
    "CartPole-v1": ("CartPole-v1", "gymnasium", "gymnasium"),
    "Hopper-v5": ("Hopper-v5", "gymnasium", "mujoco"),
    "ALE/Pong-v5": ("ALE/Pong-v5", "ale", "ale_py"),
    "envpool Hopper-v5": ("Hopper-v5", "envpool", "envpool"),
    "envpool ALE/Pong-v5": ("ALE/Pong-v5", "envpool", "envpool"),
}
EACH = pytest.mark.parametrize(("env_id", "source", "package"), ENVS.values(), ids=ENVS)


def make(env_id, source, seeds, **changes):
    return make_vector_env(PpoConfig(env=env_id, source=source, **changes), seeds)


def act(env, rng):
    if env.discrete:
        return rng.integers(env.num_actions, size=env.num_envs)
    return rng.uniform(-1, 1, (env.num_envs, env.num_actions))


def play(env, steps, seed=0):
    """Return the obs before each step, and what the steps gave, of random play."""
    rng, obs, before, given = np.random.default_rng(seed), env.reset(), [], []
    for _ in range(steps):
        before.append(obs.copy())
        given.append(env.step(act(env, rng)))
        obs = given[-1].obs
    return before, given


def stacked(given, name):
    return np.stack([getattr(steps, name) for steps in given])


@EACH
def test_steps_have_the_promised_types_and_shapes(env_id, source, package):
    pytest.importorskip(package)
    env = make(env_id, source, [3, 4, 5])
    obs, steps = play(env, 1)
    dtype = np.uint8 if "ALE" in env_id else np.float32
    assert obs[0].shape == steps[0].obs.shape == (3, *env.obs_space.shape)
    assert obs[0].dtype == steps[0].obs.dtype == dtype
    assert steps[0].reward.dtype == np.float32
    for name in ("terminated", "truncated", "ended", "resets"):
        assert getattr(steps[0], name).dtype == bool
        assert getattr(steps[0], name).shape == (3,)
    env.close()


@EACH
def test_env_i_of_many_equals_a_lone_env_of_that_seed(env_id, source, package):
    pytest.importorskip(package)
    steps = 60
    many = make(env_id, source, [7, 8, 9])
    actions = [act(many, np.random.default_rng(step)) for step in range(steps)]
    first = many.reset().copy()
    given = [(row.obs.copy(), row.reward, row.terminated) for row in map(many.step, actions)]
    for env, seed in enumerate((7, 8, 9)):
        lone = make(env_id, source, [seed])
        np.testing.assert_array_equal(lone.reset()[0], first[env])
        for action, wanted in zip(actions, given, strict=True):
            found = lone.step(action[env : env + 1])
            for mine, theirs in zip(
                (found.obs, found.reward, found.terminated), wanted, strict=True
            ):
                np.testing.assert_array_equal(mine[0], theirs[env])
        lone.close()
    many.close()
    assert not np.array_equal(first[0], first[1]) or "ALE" in env_id  # Pong begins alike


@EACH
def test_the_row_after_an_episode_only_resets(env_id, source, package):
    pytest.importorskip(package)
    env = make(env_id, source, [3, 4])
    _, given = play(env, 1500 if "ALE" in env_id else 200)
    resets, rewards = stacked(given, "resets"), stacked(given, "reward")
    done = stacked(given, "terminated") | stacked(given, "truncated")
    assert resets.any()
    np.testing.assert_array_equal(resets, done)  # Pong has one life
    np.testing.assert_array_equal(stacked(given, "ended"), done)
    assert (rewards[1:][resets[:-1]] == 0).all()
    assert not done[1:][resets[:-1]].any()
    env.close()


def test_a_reset_row_ignores_its_action_and_shows_the_new_episode():
    env = make("CartPole-v1", "gymnasium", [3])
    env.reset()
    while not (steps := env.step(np.array([1]))).resets[0]:
        last = steps.obs
    assert np.abs(steps.obs).max() > np.abs(last).max() > 0.05
    fresh = [env.step(np.array([1])).obs]
    assert (np.abs(fresh[0]) <= 0.05).all()  # CartPole begins within these bounds
    env.close()


def test_gymnasium_envs_play_the_episodes_of_their_seeds():
    env = make("CartPole-v1", "gymnasium", [11, 12])
    obs = [env.reset(), *(env.step(np.array([1, 1])).obs for _ in range(5))]
    for index, seed in enumerate((11, 12)):
        alone = gymnasium.make("CartPole-v1")
        wanted = [alone.reset(seed=seed)[0], *(alone.step(1)[0] for _ in range(5))]
        np.testing.assert_array_equal([row[index] for row in obs], wanted)
    env.close()


@pytest.mark.parametrize("source", ["ale", "envpool"])
def test_a_lost_life_ends_the_learners_episode_but_not_the_game(source):
    pytest.importorskip("ale_py" if source == "ale" else "envpool")
    env = make("ALE/Breakout-v5", source, [3, 4])
    _, given = play(env, 400)
    terminated, ended = stacked(given, "terminated"), stacked(given, "ended")
    resets, rewards = stacked(given, "resets"), stacked(given, "reward")
    for index in range(2):
        games = np.flatnonzero(ended[:, index])
        assert len(games) >= 1
        lives = np.flatnonzero(terminated[: games[0] + 1, index])
        assert len(lives) == 5  # Breakout has five
        assert lives[-1] == games[0]
    # A step that is spent on a reset is marked: ALE plays on, EnvPool spends one on each life.
    np.testing.assert_array_equal(resets, ended if source == "ale" else terminated)
    assert (rewards[1:][resets[:-1]] == 0).all()
    env.close()


def test_games_without_episodic_life_end_with_the_last_life():
    pytest.importorskip("ale_py")
    env = make("ALE/Breakout-v5", "ale", [3], episodic_life=False)
    _, given = play(env, 400)
    np.testing.assert_array_equal(stacked(given, "terminated"), stacked(given, "ended"))
    assert 1 <= stacked(given, "ended").sum() <= 3
    env.close()


@pytest.mark.parametrize("source", ["ale", "envpool"])
def test_rewards_are_those_of_the_game(source):
    pytest.importorskip("ale_py" if source == "ale" else "envpool")
    env = make("ALE/Asterix-v5", source, [3, 4])
    _, given = play(env, 300)
    assert stacked(given, "reward").max() > 1  # Asterix pays 50 and more
    env.close()


def test_settings_that_decide_a_score_are_in_the_fingerprint():
    pytest.importorskip("ale_py")
    env = make("ALE/Pong-v5", "ale", [3], frame_skip=3, sticky=0.25, max_pool=False, noop_max=0)
    assert env.fingerprint == {
        "id": "ALE/Pong-v5",
        "source": "ale",
        "frame_skip": 3,
        "sticky": 0.25,
        "max_pool": False,
        "noop_max": 0,
        "fire_reset": True,
        "episodic_life": True,
        "max_episode_steps": 36_000,  # 108,000 frames
    }
    env.close()


def test_options_reach_the_environment_and_the_fingerprint():
    pytest.importorskip("mujoco")
    env = make("Hopper-v5", "gymnasium", [3], env_option=("healthy_reward=5.0",))
    assert env.fingerprint["healthy_reward"] == 5.0
    assert env.max_episode_steps == 1000
    env.reset()
    reward = env.step(np.zeros((1, 3))).reward[0]
    plain = make("Hopper-v5", "gymnasium", [3])
    plain.reset()
    assert reward - plain.step(np.zeros((1, 3))).reward[0] == pytest.approx(4.0, abs=1e-5)
    env.close()
    plain.close()


def test_auto_takes_ale_for_atari_and_envpool_for_several_mujoco_envs():
    assert choose_source(PpoConfig(env="ALE/Pong-v5")) == "ale"
    assert choose_source(PpoConfig(env="CartPole-v1", num_envs=64)) == "gymnasium"
    assert choose_source(PpoConfig(env="Hopper-v5", num_envs=1)) == "gymnasium"
    # Stacked seeds step what a lone seed would: the choice looks at the envs of one seed.
    assert choose_source(PpoConfig(env="Hopper-v5", num_envs=1, seeds=64)) == "gymnasium"
    pytest.importorskip("envpool")
    assert choose_source(PpoConfig(env="Hopper-v5", num_envs=8)) == "envpool"
    assert choose_source(PpoConfig(env="Hopper-v5", num_envs=8, source="gymnasium")) == "gymnasium"


def test_envpools_hopper_obeys_gymnasiums_physics():
    pytest.importorskip("envpool")
    pytest.importorskip("mujoco")
    env = make("Hopper-v5", "envpool", [3]).env
    alone = gymnasium.make("Hopper-v5").unwrapped
    alone.reset()
    obs, rng = env.reset()[0][0], np.random.default_rng(0)
    for _ in range(8):
        action = rng.uniform(-1, 1, 3)
        # Hopper sees all but its x, which no later observation depends on; speeds below 10.
        assert np.abs(obs[5:]).max() < 10
        alone.set_state(np.array([0.0, *obs[:5]]), np.array(obs[5:]))
        wanted, reward, *_ = alone.step(action)
        result = env.step(action[None])
        obs = result[0][0]
        np.testing.assert_allclose(obs, wanted, rtol=0, atol=1e-9)
        assert float(result[1][0]) == pytest.approx(reward, abs=1e-5)  # EnvPool pays float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "smacv2/terran_5_vs_5"], ["several agents act in it; use baselines mappo"]),
        (["--env", "CartPol-v1"], ["unknown environment 'CartPol-v1'", "'CartPole-v1'"]),
        (["--env", "ALE/Pongo-v5"], ["unknown environment", "Did you mean 'ALE/Pong-v5'?"]),
        (
            ["--env", "Hopper-v5", "--source", "ale"],
            ["--source ale: Hopper-v5 is not an Atari game"],
        ),
        (["--env", "ALE/Pong-v5", "--source", "gymnasium"], ["ale or envpool"]),
        (["--env", "CartPole-v1", "--env-option", "gravity"], ["key=value"]),
        (["--env", "CartPole-v1", "--env-option", "gravitation=3"], ["gravitation"]),
        (["--env", "FrozenLake-v1"], ["observations must be a Box, not Discrete(16)"]),
        (
            ["--env", "test_episodes:many/actions-v0"],
            ["actions must be Discrete or Box, not Mult"],
        ),
        (
            ["--env", "ALE/Pong-v5", "--source", "envpool", "--no-max-pool"],
            ["envpool always takes the maximum of two frames; use ale"],
        ),
        (
            ["--env", "ALE/Pong-v5", "--source", "envpool", "--noop-max", "0"],
            ["envpool always begins with idle steps; use ale"],
        ),
        (["--profile", "papr"], ["unknown profile 'papr'", "Did you mean 'paper'?"]),
        (["--seeds", "2", "--target-kl", "0.1"], ["--target-kl", "use --seeds 1"]),
    ],
)
def test_bad_environments_get_one_line_and_status_two(
    capsys, monkeypatch, tmp_path, arguments, words
):
    monkeypatch.chdir(tmp_path)
    if any("ALE/" in argument for argument in arguments):
        pytest.importorskip("ale_py")
    if "envpool" in arguments:
        pytest.importorskip("envpool")
    assert main(["ppo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["--env", "ALE/Pong-v5"], "ale_py", "atari"),
        (["--env", "Hopper-v5"], "mujoco", "mujoco"),
        (["--env", "Hopper-v5", "--source", "envpool"], "envpool", "envpool"),
    ],
)
def test_a_missing_package_names_the_extra_to_install(
    capsys, monkeypatch, tmp_path, arguments, missing, extra
):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.mujoco.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["ppo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{missing} is not installed; pip install 'smacv2-suite[{extra}]'" in said


class ManyActions(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


if "many/actions-v0" not in gymnasium.registry:
    gymnasium.register("many/actions-v0", entry_point=ManyActions)
