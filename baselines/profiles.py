"""Named sets of defaults: what each profile sets for each learner (PPO: and kind of environment).

A profile changes defaults only: any flag given apart wins. docs/{mappo,qmix,pqn,ppo}.md tell
where each number comes from. It imports no PyTorch, so that `--help` stays quick.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from baselines.config import MappoConfig, PpoConfig, PqnConfig, QmixConfig
from baselines.errors import UsageError, expected

ATARI, CONTINUOUS, OTHER = "atari", "continuous", "other"
MUJOCO = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
    *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
)

_ATARI_COMMON = {
    "num_envs": 8,
    "num_steps": 128,
    "update_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "clip_coef": 0.1,
    "ent_coef": 0.01,
    "obs_norm": "none",
    "reward_norm": "sign",
    "activation": "relu",
    "hidden_size": 512,
    "num_threads": 0,
}
_OTHER_COMMON = {
    "num_envs": 4,
    "num_steps": 128,
    "update_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "ent_coef": 0.01,
    "obs_norm": "none",
    "reward_norm": "none",
}
_PAPER = {  # Moalla et al. 2024, common to both domains
    "anneal_lr": False,
    "adam_eps": 1e-8,
    "init": "pytorch",
    "clip_vloss": False,
    "vf_coef": 1.0,  # of half the squared error
    "norm_adv": "biased",
    "clip_grad_apart": True,
    "step_trunk_twice": True,
    "timeout_is_terminal": True,
    "snapshots": 41,
}
_PAPER_ATARI = {
    **_ATARI_COMMON,
    **_PAPER,
    "frame_skip": 3,
    "sticky": 0.25,
    "max_pool": False,
    "noop_max": 0,
    "fire_reset": False,
    "episodic_life": False,
    "probe": 33,
}
_PAPER_CONTINUOUS = {
    **_PAPER,
    "num_envs": 2,
    "num_steps": 1024,
    "obs_norm": "frozen",
    "obs_clip": 0.0,
    "time_feature": True,
    "reward_norm": "none",
    "policy": "tanh_normal_atanh",
    "state_std": True,
    "log_ratio_clamp": True,
    "probe": 3,
}
_PAPER_OTHER = {**_OTHER_COMMON, **_PAPER, "probe": 3}
_FIXED = {"step_trunk_twice": False, "timeout_is_terminal": False}

# profile: {kind of environment: fields of PpoConfig that it sets}
PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "cleanrl": {ATARI: _ATARI_COMMON, CONTINUOUS: {}, OTHER: _OTHER_COMMON},
    "fast": {
        ATARI: {**_ATARI_COMMON, "num_envs": 32, "num_minibatches": 8},
        CONTINUOUS: {
            "num_envs": 8,
            "num_steps": 256,
            "num_minibatches": 16,
            "timeout_is_terminal": False,
        },
        OTHER: {
            **_OTHER_COMMON,
            "num_envs": 16,
            "num_steps": 64,
            "update_epochs": 5,
            "num_minibatches": 8,
            "learning_rate": 2e-3,
            "ent_coef": 0.0,
            "reward_norm": "running",
            "clip_vloss": False,
            "timeout_is_terminal": False,
        },
    },
    "paper": {ATARI: _PAPER_ATARI, CONTINUOUS: _PAPER_CONTINUOUS, OTHER: _PAPER_OTHER},
    "paper_fixed": {
        ATARI: {**_PAPER_ATARI, **_FIXED},
        CONTINUOUS: {**_PAPER_CONTINUOUS, **_FIXED, "policy": "tanh_normal"},
        OTHER: {**_PAPER_OTHER, **_FIXED},
    },
}

LEARNERS: dict[str, type] = {
    "ppo": PpoConfig,
    "mappo": MappoConfig,
    "qmix": QmixConfig,
    "pqn": PqnConfig,
}

# learner of battles: {profile: fields that it sets}; the classes' own defaults are "batched"
BATTLE_PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "mappo": {
        "batched": {},
        "smacv2_paper": {  # benellis3/mappo, as the published curves were made
            "num_envs": 8,
            "num_steps": 64,
            "agent_id": True,
            "learning_rate": 5e-4,
            "anneal_lr": False,
            "gae_lambda": 0.99,
            "update_epochs": 10,
            "num_minibatches": 1,
            "clip_coef": 0.1,
            "ent_coef": 0.0,
            "max_grad_norm": 10.0,
            "clip_vloss": False,
            "value_norm": False,
            "timeout_is_terminal": True,
        },
    },
    "qmix": {
        "batched": {},
        "smacv2_paper": {  # benellis3/pymarl2, as the published curves were made
            "num_envs": 8,
            "encoder": "plain",
            "hidden_size": 64,
            "mixer_size": 32,
            "hypernet_size": 64,
            "learning_rate": 1e-3,
            "anneal_lr": False,
            "max_grad_norm": 10.0,
            "td_lambda": 0.4,
            "epsilon_start": 1.0,
            "epsilon_end": 0.05,
            "epsilon_steps": 100_000,
            "buffer_episodes": 5000,
            "batch_episodes": 128,
            "updates_per_rollout": 1,
            "target_update_episodes": 200,
        },
    },
    "pqn": {"batched": {}},
}


def kind_of(env_id: str) -> str:
    """Return the kind of environment that an id names, which decides a profile's numbers."""
    name = env_id.rpartition(":")[2]
    if name.startswith("ALE/"):
        return ATARI
    return CONTINUOUS if name.partition("-v")[0] in MUJOCO else OTHER


def profile_defaults(command: str, arguments: Sequence[str]) -> Any:
    """Return a learner's defaults for the `--profile` (PPO: and `--env`) among the arguments.

    Raises:
        UsageError: there is no such profile.
    """
    config_class = LEARNERS[command]
    profile = _flag(arguments, "profile", config_class.profile)
    profiles = PROFILES if command == "ppo" else BATTLE_PROFILES[command]
    if profile not in profiles:
        raise UsageError(f"{command}: --profile {expected('profile', profile, profiles)}")
    if command != "ppo":
        return config_class(profile=profile, **profiles[profile])
    env_id = _flag(arguments, "env", PpoConfig.env)
    return PpoConfig(env=env_id, profile=profile, **PROFILES[profile][kind_of(env_id)])


def _flag(arguments: Sequence[str], name: str, default: str) -> str:
    """Return the last value given for a flag, as `--name value` or `--name=value`."""
    value = default
    for argument, following in itertools.pairwise([*arguments, ""]):
        if argument == f"--{name}" and following:
            value = following
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
