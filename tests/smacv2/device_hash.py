"""Play a few battles on one device and print a hash of every output byte.

    python -m tests.smacv2.device_hash cpu terran_5_vs_5 30

With ``NUMBA_DISABLE_JIT=1`` the rules run uncompiled.
"""

import hashlib
import sys

import numpy as np

from smacv2.gymnasium_env import SMACv2VectorEnv


def play(device: str, scenario: str, steps: int, num_envs: int = 2, **options: object) -> str:
    """Return a hash over observations, state, masks, rewards and flags of ``steps`` steps."""
    env = SMACv2VectorEnv(scenario, num_envs, device=device, num_threads=1, **options)
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    obs, info = env.reset(seed=7)
    for _ in range(steps):
        chances = rng.random(info["action_mask"].shape) * info["action_mask"]
        obs, *results, info = env.step(chances.argmax(-1))
        for array in (obs, *results, info["state"], info["action_mask"]):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    print(play(sys.argv[1], sys.argv[2], int(sys.argv[3])))
