"""Random numbers of a run: seeds derived from one number, and the global generators."""

import random
from typing import Any

import numpy as np
import torch


def derive_seeds(seed: int | tuple[int, ...]) -> tuple[int, int]:
    """Return the seeds of environment and learner for a run's seed (or for several numbers).

    Env i of a vector environment plays stream `seed + i`, so neighbouring run seeds would share
    almost all battles. Hashing moves them far apart. `seed + i` stays below 2**32 for 2**16 envs.
    """
    environment, learner = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    return environment % (2**32 - 2**16), learner


def seed_globals(learner_seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, for weights and other libraries."""
    random.seed(learner_seed)
    np.random.seed(learner_seed)  # noqa: NPY002
    torch.manual_seed(learner_seed)


def seeded_generator(seed: int, device: str) -> torch.Generator:
    """Return a seeded generator of a device."""
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    return generator


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and PyTorch, as plain data."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_states(state: dict[str, Any]) -> None:
    """Restore the states that `random_states` returned."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
