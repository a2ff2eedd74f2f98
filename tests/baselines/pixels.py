"""Catch on pixels: a ball falls, a paddle of three cells moves left, stays or moves right.

A caught ball pays 1 and a missed one -1, so that random play earns about -0.4 and good play 1.
"""

import gymnasium
import numpy as np

CATCH = "pixels:pixels/catch-v0"
CELLS = 12


class Catch(gymnasium.Env):
    """Four frames (4, size, size) uint8, as Atari shows them."""

    def __init__(self, size=84):
        self.pixels = size // CELLS
        self.size = self.pixels * CELLS
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, self.size, self.size), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.paddle = 0, CELLS // 2
        self.column = int(self.np_random.integers(CELLS))
        self.frames = np.repeat(self._draw()[None], 4, 0)
        return self.frames.copy(), {}

    def step(self, action):
        self.row += 1
        self.paddle = int(np.clip(self.paddle + action - 1, 1, CELLS - 2))
        self.frames = np.concatenate([self.frames[1:], self._draw()[None]])
        landed = self.row == CELLS - 1
        caught = abs(self.paddle - self.column) <= 1
        return self.frames.copy(), landed * (1.0 if caught else -1.0), landed, False, {}

    def _draw(self):
        cells = np.zeros((CELLS, CELLS), np.uint8)
        cells[self.row, self.column] = 255
        cells[-1, self.paddle - 1 : self.paddle + 2] = 128
        return cells.repeat(self.pixels, 0).repeat(self.pixels, 1)


if "pixels/catch-v0" not in gymnasium.registry:
    gymnasium.register("pixels/catch-v0", entry_point=Catch)
