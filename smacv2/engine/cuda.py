"""The CUDA driver: two kernels per step, one to play battles and one to show them to agents.

On the device the battle axis is last, so that neighbouring threads read neighbouring words; a rule
still works on one battle, ``units[:, :, b]``. The rules are those of the CPU: numba-cuda compiles
the same functions for the device.

``NUMBA_ENABLE_CUDASIM=1`` (with ``NUMBA_DISABLE_JIT=1``) runs the kernels in Numba's simulator.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from numba import cuda
except ImportError as error:  # pragma: no cover - numba always ships a stub
    raise RuntimeError("device='cuda' needs the extra: pip install 'smacv2-suite[cuda]'") from error

from smacv2.battle import OUTCOME, OUTCOME_TIMEOUT, OVER, BattleState, Outputs, set_seeds
from smacv2.engine.loop import (
    LEAVE_COMMAND,
    RESET_COMMAND,
    STEP_COMMAND,
    play_battle,
    show,
)
from smacv2.engine.observe import observe, write_state
from smacv2.engine.orders import write_mask_row
from smacv2.engine.tables import NUM_AGENTS, OBS_AS_STATE, SHARE_SIGHTS, Tables

THREADS_PER_BLOCK = 128
"""Largest number of threads per block."""

BLOCKS_WANTED = 512
"""Blocks over which small batches are spread: a few per multiprocessor. Battles that share a warp
wait for each other's branches, so fewer battles per warp are faster."""


def play_battles(
    commands, units, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
    actions, mask, reward, terminated, truncated,
):  # fmt: skip
    """Step or reset one battle per thread according to its command, without observing it."""
    b = cuda.grid(1)  # type: ignore[attr-defined]
    if b < commands.shape[0] and commands[b] != LEAVE_COMMAND:
        reward[b] = play_battle(
            commands[b], units[:, :, b], world[:, b], sights[:, :, b], kinds, rules, teams, points,
            spiral, cone, pathing, actions[:, b], mask[:, :, b],
        )  # fmt: skip
        truncated[b] = world[OUTCOME, b] == OUTCOME_TIMEOUT
        terminated[b] = world[OVER, b] != 0 and not truncated[b]


def show_agents(commands, units, world, sights, kinds, rules, cone, pathing, obs, state, mask):
    """Write one agent's mask and observation per thread; one more thread writes the state."""
    b, agent = cuda.grid(2)  # type: ignore[attr-defined]
    if b < commands.shape[0] and commands[b] != LEAVE_COMMAND:
        unit, masks = units[:, :, b], mask[:, :, b]
        if agent < rules[NUM_AGENTS]:
            write_mask_row(unit, kinds, rules, cone, pathing, masks, agent)
            observe(
                unit, world[:, b], sights[:, :, b], kinds, rules, cone, pathing, masks, agent,
                obs[agent, :, b],
            )  # fmt: skip
        else:
            write_state(unit, world[:, b], kinds, rules, cone, obs[:, :, b], state[:, b])


def show_battles(commands, units, world, sights, kinds, rules, cone, pathing, obs, state, mask):
    """Show one battle per thread, for settings in which an agent's view depends on others."""
    b = cuda.grid(1)  # type: ignore[attr-defined]
    if b < commands.shape[0] and commands[b] != LEAVE_COMMAND:
        show(
            units[:, :, b], world[:, b], sights[:, :, b], kinds, rules, cone, pathing,
            obs[:, :, b], state[:, b], mask[:, :, b],
        )  # fmt: skip


@functools.cache
def kernel(function: Callable[..., None]) -> Any:
    """Return a compiled kernel: one per process serves all scenarios."""
    return cuda.jit(function)


class CudaDriver:
    """Run the rules on arrays in device memory.

    The device's ``arrays`` are always current, with the battle axis last. ``reset`` and ``step``
    also copy them to host memory, as NumPy users expect. Learners on the same device write
    ``arrays["actions"]``, call ``launch``, and read the other ``arrays`` in place
    (``torch.as_tensor`` shares their memory); the host's copy is then outdated until ``download``.

    Raises:
        RuntimeError: There is no usable GPU.
    """

    device = "cuda"

    def __init__(self, state: BattleState, tables: Tables, outputs: Outputs):
        if not cuda.is_available():
            raise RuntimeError(
                "device='cuda' needs an NVIDIA GPU with its driver and the extra: "
                "pip install 'smacv2-suite[cuda]' (smacv2 doctor says what is missing)"
            )
        self._hosts = {
            "units": state.units, "world": state.world, "sights": state.sights,
            "obs": outputs.obs, "state": outputs.state, "action_mask": outputs.action_mask,
            "reward": outputs.reward, "terminated": outputs.terminated,
            "truncated": outputs.truncated,
        }  # fmt: skip
        num_envs, num_agents = outputs.action_mask.shape[:2]
        self._num_envs = num_envs
        # One after the other: agents that share sights, and the state if it is all observations.
        self._in_turn = bool(tables.rules[SHARE_SIGHTS] or tables.rules[OBS_AS_STATE])
        self._shown_apart = 1 if self._in_turn else num_agents + 1
        self._tables = tuple(
            cuda.to_device(table)
            for table in (
                tables.kinds, tables.rules, tables.teams, _non_empty(tables.points), tables.spiral,
                tables.cone, tables.pathing,
            )
        )  # fmt: skip
        self.arrays: dict[str, Any] = {
            name: cuda.to_device(_battle_last(host)) for name, host in self._hosts.items()
        }
        self.arrays["actions"] = cuda.device_array((num_agents, num_envs), np.int32)
        self._all_step = cuda.to_device(np.full(num_envs, STEP_COMMAND, np.int8))

    def reset(self, chosen: np.ndarray, seeds: np.ndarray | None = None) -> None:
        """Start the next episode of chosen battles, or with ``seeds`` episode 0 of these."""
        if seeds is not None:
            world = self.arrays["world"].copy_to_host()
            set_seeds(world.T, chosen, seeds)
            self.arrays["world"].copy_to_device(world)
        commands = np.where(chosen, RESET_COMMAND, LEAVE_COMMAND).astype(np.int8)
        self.launch(cuda.to_device(commands))
        self.download()

    def step(self, actions: np.ndarray) -> None:
        """Play one step of every battle with ``actions`` ``(num_envs, num_agents)`` int32."""
        self.arrays["actions"].copy_to_device(_battle_last(actions))
        self.launch()
        self.download()

    def launch(self, commands: Any = None, stream: Any = 0) -> None:
        """Start both kernels on ``arrays``; they run asynchronously.

        Args:
            commands: Device array ``(num_envs,)`` int8 with a command per battle; None steps all.
            stream: A Numba stream; ``cuda.external_stream`` makes one of PyTorch's. A captured CUDA
                graph of both kernels starts for the price of one.
        """
        self.play(commands, stream)
        self.show(commands, stream)

    def play(self, commands: Any = None, stream: Any = 0) -> None:
        """Start the kernel that plays the battles."""
        arrays = self.arrays
        threads = min(-(-self._num_envs // BLOCKS_WANTED), THREADS_PER_BLOCK)
        kernel(play_battles)[-(-self._num_envs // threads), threads, stream](
            self._all_step if commands is None else commands,
            arrays["units"], arrays["world"], arrays["sights"], *self._tables, arrays["actions"],
            arrays["action_mask"], arrays["reward"], arrays["terminated"], arrays["truncated"],
        )  # fmt: skip

    def show(self, commands: Any = None, stream: Any = 0) -> None:
        """Start the kernel that writes observations, state and masks."""
        arrays = self.arrays
        function = show_battles if self._in_turn else show_agents
        kinds, rules, *_, cone, pathing = self._tables
        blocks = (-(-self._num_envs // THREADS_PER_BLOCK), self._shown_apart)
        kernel(function)[blocks, THREADS_PER_BLOCK, stream](
            self._all_step if commands is None else commands,
            arrays["units"], arrays["world"], arrays["sights"], kinds, rules, cone, pathing,
            arrays["obs"], arrays["state"], arrays["action_mask"],
        )  # fmt: skip

    def upload(self) -> None:
        """Copy the host's arrays to the device."""
        for name, host in self._hosts.items():
            self.arrays[name].copy_to_device(_battle_last(host))

    def download(self) -> None:
        """Copy the device's arrays to the host, waiting for the kernels."""
        for name, host in self._hosts.items():
            host[...] = np.moveaxis(self.arrays[name].copy_to_host(), -1, 0)

    def close(self) -> None:
        """Release the device arrays."""
        self.arrays.clear()


def _battle_last(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy with the battle axis moved to the end."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1))


def _non_empty(table: np.ndarray) -> np.ndarray:
    """Return a table with at least one entry: empty arrays cannot be copied to a device."""
    return table if table.size else np.zeros((1, 1), table.dtype)
