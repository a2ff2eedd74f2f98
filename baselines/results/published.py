"""The SMACv2 authors' learning curves on real StarCraft II, the comparison for our results.

`data/smacv2_published.json` holds every training run of the 15 scenarios, and its source.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from baselines.errors import UsageError, expected
from baselines.results.stats import Array

DATA = Path(__file__).parent / "data" / "smacv2_published.json"
NAMES = {"mappo": "MAPPO", "qmix": "QMIX", "open_loop": "open-loop MAPPO"}


@dataclasses.dataclass(frozen=True)
class Published:
    """The published runs of one algorithm on one scenario."""

    steps: Array  # (points,) environment steps, evenly spaced
    win_rates: Array  # (runs, points) over the tests since the step before; NaN without a test

    @property
    def middles(self) -> Array:
        """The middle of the steps that each value averages over (points,)."""
        return self.steps - (self.steps[1] - self.steps[0]) / 2

    @property
    def mean(self) -> Array:
        """The win rate (points,), averaged over the runs that have one at the point."""
        return np.nanmean(self.win_rates, axis=0)

    def near(self, step: float) -> Array:
        """Return the mean win rate about a step of each run that was tested there, (runs,).

        The mean is over the bins that overlap the 10 % around the step: two bins at 2 M steps.

        Args:
            step: environment steps; below the width of a bin no run has a win rate.
        """
        width = self.steps[1] - self.steps[0]
        bins = (self.steps > 0.9 * step) & (self.steps - width < 1.1 * step) & (step >= width)
        found = self.win_rates[:, bins]  # (runs, bins)
        return np.nanmean(found[np.isfinite(found).any(axis=1)], axis=1)


def published(env_id: str, algorithm: str) -> Published:
    """Return the published curves of an algorithm on a scenario.

    Args:
        env_id: a scenario or its Gymnasium id, such as smacv2/terran_5_vs_5-v0.
        algorithm: `mappo`, `qmix` or `open_loop`.

    Raises:
        UsageError: nothing is published of this scenario or algorithm.
    """
    content = _content()
    scenario = scenario_of(env_id)
    if scenario not in content["win_rates"]:
        raise UsageError(expected("published scenario", scenario, content["win_rates"], limit=15))
    if algorithm not in NAMES:
        raise UsageError(expected("published algorithm", algorithm, NAMES))
    runs = content["win_rates"][scenario][algorithm]
    return Published(np.array(content["steps"], np.float64), np.array(runs, np.float64))


def is_published(env_id: str) -> bool:
    """Return whether there are published curves of an environment."""
    return scenario_of(env_id) in _content()["win_rates"]


def scenario_of(env_id: str) -> str:
    """Return the scenario in a Gymnasium id of this package, without its version."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("smacv2/")[2])


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(DATA.read_text())
