"""Draw the picture of the README: learning curves on terran_5_vs_5 beside the published ones.

    python docs/figures/terran.py          # needs matplotlib: the extra "plots"

Ours are those of benchmarks/results/battles.json, published ones those of the package. Both are
means over 250,000 steps.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from baselines.results.published import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
BATTLES = HERE.parent.parent / "benchmarks" / "results" / "battles.json"
STEPS = 2_000_000
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
# name in battles.json: colour, label at the end of the curve, its height there
OURS = {
    "MAPPO, attention": (GREEN, "MAPPO, attention, this engine", 0.735),
    "QMIX, published settings": (BLUE, "QMIX, this engine", 0.635),
    "MAPPO, published settings": (ORANGE, "MAPPO, this engine", 0.445),
}
PUBLISHED = {
    "qmix": (BLUE, "QMIX, the real game", 0.585),
    "mappo": (ORANGE, "MAPPO, the real game", 0.395),
}


def main() -> None:
    """Write terran_learning_curves.png beside this file."""
    plt.rcParams.update({"font.size": 12, "font.family": "DejaVu Sans"})
    figure, axis = plt.subplots(figsize=(9, 4.2), dpi=120)
    learners = json.loads(BATTLES.read_text())["learners"]
    for name, (colour, label, height) in OURS.items():
        runs = [run["curve"] for run in learners[name]["terran"].values()]
        draw_ours(axis, np.array(runs, float), colour)
        name_curve(axis, label, colour, height)
    for algorithm, (colour, label, height) in PUBLISHED.items():
        draw_published(axis, algorithm, colour)
        name_curve(axis, label, colour, height)
    finish(axis)
    figure.tight_layout()
    figure.savefig(HERE / "terran_learning_curves.png", metadata={"Software": None})


def draw_ours(axis: "Axes", runs: np.ndarray, colour: str) -> None:
    """Draw mean and range of the runs' win rates (seeds, bins) at the middles of their bins."""
    width = STEPS / runs.shape[1]
    middles = np.arange(runs.shape[1]) * width + width / 2  # (bins,)
    axis.plot(middles, runs.mean(axis=0), color=colour, linewidth=2.4)
    axis.fill_between(middles, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.18, lw=0)


def draw_published(axis: "Axes", algorithm: str, colour: str) -> None:
    """Draw the mean of the published runs up to the step at which ours end."""
    curve = published("smacv2/terran_5_vs_5", algorithm)
    shown = curve.middles < STEPS
    axis.plot(curve.middles[shown], curve.mean[shown], color=colour, linewidth=1.8, linestyle="--")


def name_curve(axis: "Axes", label: str, colour: str, height: float) -> None:
    """Write a curve's name to the right of its end."""
    axis.text(1.01 * STEPS, height, label, color=colour, va="center", clip_on=False)


def finish(axis: "Axes") -> None:
    """Label the axes of the picture."""
    axis.set(xlim=(0, STEPS), ylim=(0, 0.8), xlabel="environment steps", title="terran_5_vs_5")
    axis.set_ylabel("win rate")
    axis.xaxis.set_major_locator(mpl.ticker.MultipleLocator(500_000))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
