"""Named sets of defaults: the fields that each profile sets for each algorithm.

PPO's profiles also depend on the kind of environment. A profile changes defaults only: a flag on
the command line overrides it. The page of each algorithm gives the source of each number.
"""

from typing import Any

Profiles = dict[str, dict[str, Any]]  # name: {field of the algorithm's config: default}

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
PPO: dict[str, Profiles] = {
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

MAPPO: Profiles = {
    "batched": {},
    "smacv2_paper": {  # benellis3/mappo, the code of the published curves
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
}

QMIX: Profiles = {
    "batched": {},
    "smacv2_paper": {  # benellis3/pymarl2, the code of the published curves
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
}


def kind_of(env_id: str) -> str:
    """Return the kind of environment that an id names, which selects a profile's defaults."""
    name = env_id.rpartition(":")[2]
    if name.startswith("ALE/"):
        return ATARI
    return CONTINUOUS if name.partition("-v")[0] in MUJOCO else OTHER
