"""Hashes of a few steps of every scenario, which change whenever the rules do.

    python -m tests.smacv2.golden          # rewrite golden.json after a deliberate change of rules
    python -m tests.smacv2.golden --show   # print the hashes instead

A change of rules also raises ``smacv2.ENGINE_VERSION``.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from smacv2.gymnasium_env import SMACv2VectorEnv

FILE = Path(__file__).with_name("golden.json")
RACES = ("terran", "protoss", "zerg")
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
SCENARIOS = (
    *(f"{race}_{size}" for race in RACES for size in SIZES),
    *(f"{race}_5_vs_5_conic" for race in RACES),
    *(f"{race}_6_vs_5_epo_05" for race in RACES),
)
NUM_ENVS = 4
NUM_STEPS = 30
SEED = 7


def legal_actions(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one random legal action per agent."""
    return (rng.random(mask.shape) * (mask != 0)).argmax(-1)


def digest_of(scenario: object, *, num_envs: int = NUM_ENVS, num_steps: int = NUM_STEPS) -> str:
    """Play random legal actions (a plain PCG64 stream); return a hash of every output byte."""
    env = SMACv2VectorEnv(scenario, num_envs, num_threads=1)
    rng = np.random.Generator(np.random.PCG64(SEED))
    digest = hashlib.sha256()
    obs, info = env.reset(seed=SEED)
    reward = np.zeros(num_envs, np.float32)
    for _ in range(num_steps):
        for array in (obs, info["state"], info["action_mask"], reward):
            digest.update(np.ascontiguousarray(array).tobytes())
        obs, reward, _, _, info = env.step(legal_actions(info["action_mask"], rng))
    return digest.hexdigest()[:32]


def main() -> None:
    """Write or print the hash of every scenario."""
    text = json.dumps({name: digest_of(name) for name in SCENARIOS}, indent=2) + "\n"
    if "--show" in sys.argv:
        print(text, end="")
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
