"""StarCraft Multi-Agent Challenge v2: procedurally generated team battles.

``import smacv2`` registers every scenario of ``maps/`` with Gymnasium. Nothing heavy (Numba) is
loaded until an environment is made; PyTorch and StarCraft II are not needed.

    import gymnasium, smacv2
    env = gymnasium.make("smacv2/terran_5_vs_5-v0")
    envs = gymnasium.make_vec("smacv2/terran_5_vs_5-v0", num_envs=64)
"""

__version__ = "0.1.0"

ENGINE_VERSION = "4"
"""Version of the battle rules: raised whenever the same seed and actions could play differently."""

EVALUATION_SEED = 2**40
"""First of the seeds reserved for evaluation; training seeds are below ``TRAINING_SEEDS``."""

TRAINING_SEEDS = 2**32
"""Training draws seeds from ``range(TRAINING_SEEDS)``, so it never plays an evaluation battle."""

from smacv2.registration import register_scenario, register_scenarios  # noqa: E402

register_scenarios()

__all__ = [
    "ENGINE_VERSION",
    "EVALUATION_SEED",
    "TRAINING_SEEDS",
    "__version__",
    "register_scenario",
]
