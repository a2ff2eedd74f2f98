"""The embedded engine as a backend: it owns the arrays of a batch and chooses the driver."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from smacv2 import ENGINE_VERSION
from smacv2.battle import BattleState, Outputs
from smacv2.engine.cpu import CpuDriver
from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.options import Options
from smacv2.scenario import Scenario

DEVICES = ("cpu", "cuda")


class EngineBackend:
    """A batch of battles in the embedded engine (see ``smacv2.battle.Backend``).

    Args:
        scenario: Teams, starts and arena.
        options: What is observed and rewarded, and by which rules mode.
        num_envs: Battles in the batch.
        device: "cpu" or "cuda".
        num_threads: CPU threads; None takes every core this process may use.

    Raises:
        ValueError: An unknown device, or a number out of range.
        RuntimeError: ``device="cuda"`` without a usable GPU; the message says what is missing.
    """

    def __init__(
        self,
        scenario: Scenario,
        options: Options,
        num_envs: int,
        *,
        device: str = "cpu",
        num_threads: int | None = None,
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, not {num_threads}")
        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
        self.scenario = scenario
        self.options = options
        self.layout = Layout.of(scenario, options)
        self.tables = Tables.build(scenario, options, self.layout)
        self.state = BattleState.empty(num_envs, scenario.num_agents, scenario.num_enemies)
        self.outputs = Outputs.empty(num_envs, self.layout)
        if device == "cuda":
            from smacv2.engine.cuda import CudaDriver

            self.driver: Any = CudaDriver(self.state, self.tables, self.outputs)
        else:
            threads = num_threads or len(os.sched_getaffinity(0))
            self.driver = CpuDriver(self.state, self.tables, self.outputs, threads)

    @property
    def fingerprint(self) -> dict[str, str | int]:
        """Everything that decides results: with equal seeds and actions, equal battles follow."""
        options = json.dumps(dataclasses.asdict(self.options), sort_keys=True)
        return {
            "backend": "engine",
            "engine_version": ENGINE_VERSION,
            "scenario": self.scenario.name,
            "scenario_hash": self.scenario.hash,
            "rules": self.options.rules,
            "options_hash": hashlib.sha256(options.encode()).hexdigest()[:16],
            "device": self.driver.device,
        }

    def reset(self, mask: np.ndarray, seeds: np.ndarray | None = None) -> None:
        """Start the next episode of the masked battles, or episode 0 of ``seeds``."""
        self.driver.reset(mask, seeds)

    def step(self, actions: np.ndarray) -> None:
        """Play one environment step with ``actions`` ``(num_envs, num_agents)`` int32."""
        self.driver.step(actions)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return copies of everything that ``restore`` needs to continue bit for bit."""
        self.driver.download()
        copies = {name: array.copy() for name, array in self._arrays().items()}
        return {**copies, "game": self._game()}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continue from a ``checkpoint`` of a backend with the same scenario and options.

        Raises:
            ValueError: The checkpoint is of another game, or an array is missing or has another
                shape; nothing has been changed.
        """
        if "game" not in saved or not np.array_equal(saved["game"], self._game()):
            raise ValueError(
                f"checkpoint: it belongs to another scenario, other options or another engine "
                f"version than {self.scenario.name} here"
            )
        arrays = self._arrays()
        for name, target in arrays.items():
            shape = saved[name].shape if name in saved else None
            if shape != target.shape:
                raise ValueError(f"checkpoint: {name} must have shape {target.shape}, not {shape}")
        for name, target in arrays.items():
            target[...] = saved[name]
        self.driver.upload()

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return every array that a step may change, by name."""
        state = self.state
        blocks = {"units": state.units, "world": state.world, "sights": state.sights}
        return {**blocks, **self.outputs.arrays()}

    def _game(self) -> np.ndarray:
        """Return the identity of the game, which a restored checkpoint must share, as bytes."""
        keys = ("engine_version", "scenario_hash", "options_hash")
        text = " ".join(str(self.fingerprint[key]) for key in keys)
        return np.frombuffer(text.encode(), np.uint8).copy()

    def close(self) -> None:
        """Release threads or the device."""
        self.driver.close()
