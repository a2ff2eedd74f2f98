"""The CUDA driver: the same rules as on the CPU, one thread a battle.

On the device every array has its battle axis last, so that neighbouring threads read neighbouring
words; a rule still sees one battle, ``units[:, :, b]``. Rules are the functions that Numba compiled
for the CPU; numba-cuda compiles them again as device functions.

``NUMBA_ENABLE_CUDASIM=1`` (with ``NUMBA_DISABLE_JIT=1``) runs the kernel in Numba's simulator.
"""

from typing import Any

import numpy as np

try:
    from numba import cuda
except ImportError as error:  # pragma: no cover - numba always ships a stub
    raise RuntimeError("device='cuda' needs the extra: pip install 'smacv2-suite[cuda]'") from error

from smacv2.battle import OUTCOME, OUTCOME_TIMEOUT, OVER, BattleState
from smacv2.engine.loop import LEAVE_COMMAND, RESET_COMMAND, STEP_COMMAND, run_battle
from smacv2.engine.outputs import Outputs
from smacv2.engine.tables import Tables

THREADS_PER_BLOCK = 64


def run_battles(
    commands, units, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
    actions, obs, state, mask, reward, terminated, truncated,
):  # fmt: skip
    """Step or reset one battle a thread, each as its command says."""
    b = cuda.grid(1)  # type: ignore[attr-defined]
    if b < commands.shape[0] and commands[b] != LEAVE_COMMAND:
        reward[b] = run_battle(
            commands[b], units[:, :, b], world[:, b], sights[:, :, b], kinds, rules, teams, points,
            spiral, cone, pathing, actions[:, b], obs[:, :, b], state[:, b], mask[:, :, b],
        )  # fmt: skip
        truncated[b] = world[OUTCOME, b] == OUTCOME_TIMEOUT
        terminated[b] = world[OVER, b] != 0 and not truncated[b]


class CudaDriver:
    """Runs the rules on arrays in device memory.

    ``reset`` and ``step`` copy the battles to host memory, as NumPy users expect. Learners on the
    same device write actions into ``arrays["actions"]``, call ``launch``, and read the
    other ``arrays`` in place (``torch.as_tensor`` shares their memory; the battle axis is last).

    Raises:
        RuntimeError: There is no usable GPU.
    """

    device = "cuda"

    def __init__(self, state: BattleState, tables: Tables, outputs: Outputs):
        if not cuda.is_available():
            raise RuntimeError(
                "device='cuda' needs an NVIDIA GPU with its driver and the extra: "
                "pip install 'smacv2-suite[cuda]' (smacv2 doctor tells what is missing)"
            )
        self._kernel = cuda.jit(run_battles)
        self._hosts = {
            "units": state.units, "world": state.world, "sights": state.sights,
            "obs": outputs.obs, "state": outputs.state, "action_mask": outputs.action_mask,
            "reward": outputs.reward, "terminated": outputs.terminated,
            "truncated": outputs.truncated,
        }  # fmt: skip
        num_envs, num_agents = outputs.action_mask.shape[:2]
        self._blocks = -(-num_envs // THREADS_PER_BLOCK)
        self._tables = tuple(
            cuda.to_device(table)
            for table in (
                tables.kinds, tables.rules, tables.teams, _non_empty(tables.points), tables.spiral,
                tables.cone, tables.pathing,
            )
        )  # fmt: skip
        self.arrays: dict[str, Any] = {
            name: cuda.device_array((*host.shape[1:], num_envs), host.dtype)
            for name, host in self._hosts.items()
        }
        self.arrays["actions"] = cuda.device_array((num_agents, num_envs), np.int32)
        self._all_step = cuda.to_device(np.full(num_envs, STEP_COMMAND, np.int8))

    def reset(self, chosen: np.ndarray) -> None:
        """Start new battles where ``chosen`` ``(num_envs,)`` bool is set."""
        self.upload()
        commands = np.where(chosen, RESET_COMMAND, LEAVE_COMMAND).astype(np.int8)
        self.launch(cuda.to_device(commands))
        self.download()

    def step(self, actions: np.ndarray) -> None:
        """Play one step of every battle with ``actions`` ``(num_envs, num_agents)`` int32."""
        self.arrays["actions"].copy_to_device(_battle_last(actions))
        self.launch()
        self.download()

    def launch(self, commands: Any = None) -> None:
        """Start the kernel on what lies in ``arrays``; it runs asynchronously."""
        arrays = self.arrays
        self._kernel[self._blocks, THREADS_PER_BLOCK](
            self._all_step if commands is None else commands,
            arrays["units"], arrays["world"], arrays["sights"], *self._tables, arrays["actions"],
            arrays["obs"], arrays["state"], arrays["action_mask"], arrays["reward"],
            arrays["terminated"], arrays["truncated"],
        )  # fmt: skip

    def upload(self) -> None:
        """Copy the host's battles to the device."""
        for name, host in self._hosts.items():
            self.arrays[name].copy_to_device(_battle_last(host))

    def download(self) -> None:
        """Copy the device's battles to the host, waiting for the kernel."""
        for name, host in self._hosts.items():
            host[...] = np.moveaxis(self.arrays[name].copy_to_host(), -1, 0)

    def close(self) -> None:
        """Release the device arrays."""
        self.arrays.clear()


def _battle_last(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy with the battle axis moved to the end."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1))


def _non_empty(table: np.ndarray) -> np.ndarray:
    """Return a table that can be copied to a device, where nothing may be empty."""
    return table if table.size else np.zeros((1, 1), table.dtype)
