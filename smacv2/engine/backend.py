"""EngineBackend: owns the arrays of a batch of battles and picks the driver that plays them."""

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np

from smacv2 import ENGINE_VERSION
from smacv2.battle import BattleState
from smacv2.engine.cpu import CpuDriver, set_seeds
from smacv2.engine.outputs import Outputs
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
        """Everything that decides results; equal fingerprints, seeds and actions replay equally."""
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
        """Start new battles where ``mask`` is set: episode 0 of ``seeds``, or each one's next."""
        if seeds is not None:
            set_seeds(self.state.world, mask, seeds)
        else:
            self.state.episode[mask] += 1
        self.driver.reset(mask)

    def step(self, actions: np.ndarray) -> None:
        """Play one environment step with ``actions`` ``(num_envs, num_agents)`` int32."""
        self.driver.step(actions)

    def close(self) -> None:
        """Release threads or the device."""
        self.driver.close()
