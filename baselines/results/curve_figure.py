"""The figure of learning curves: a row per environment, over environment steps and wall-clock."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from baselines.results.curves import Band, CurveGroup, EnvironmentCurves
from baselines.results.drawing import add_legend, colour_of, group_handle, label_steps, line_of
from baselines.results.metrics import EPISODE_MEANS
from baselines.results.published import NAMES, Published
from baselines.results.stats import Array
from baselines.results.tables import counted, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PUBLISHED_COLOUR = "#777777"
DASHES = {"mappo": (0, (6, 2)), "qmix": (0, (2, 1.5)), "open_loop": (0, (1, 3))}
Overlays = dict[str, dict[str, Published]]  # published curves by environment and algorithm
Indices = dict[str, int]  # by the groups' labels; they choose the colours


def draw_learning_curves(
    environments: Sequence[EnvironmentCurves], overlays: Overlays, metric: str
) -> "Figure":
    """Return the figure: a row per environment, steps on the left and wall-clock on the right."""
    from matplotlib.figure import Figure

    groups = [group for environment in environments for group in environment.groups]
    labels = dict.fromkeys(group.label for group in groups)
    indices = {label: index for index, label in enumerate(labels)}
    figure = Figure(figsize=(11, 3.2 * len(environments)), layout="constrained")
    rows = figure.subplots(len(environments), 2, squeeze=False, sharey="row")
    for (left, right), environment in zip(rows, environments, strict=True):
        _draw_over_steps(left, environment, overlays.get(environment.env_id, {}), indices)
        _draw_over_seconds(right, environment, indices)
        over = "episodes" if metric in EPISODE_MEANS else "iterations"
        left.set_ylabel(f"{metric}\nmean over the {over} of {environment.bin_steps:,} steps")
    lines = add_legend(figure, _handles(groups, indices, bool(overlays)), characters=140)
    figure.set_figheight(figure.get_figheight() + 0.22 * lines + 0.2)
    return figure


def _draw_over_steps(
    axis: "Axes", environment: EnvironmentCurves, overlay: dict[str, Published], indices: Indices
) -> None:
    """Draw one environment's curves over steps, in front of the published ones."""
    for name, curves in overlay.items():
        shown = slice(np.searchsorted(curves.middles, environment.last_step) + 1)
        at, mean = curves.middles[shown], curves.mean[shown]
        axis.plot(at, mean, color=PUBLISHED_COLOUR, linestyle=DASHES[name], lw=1.3)
    for group in environment.groups:
        index = indices[group.label]
        for curve in group.curves:
            _draw_run(axis, curve.steps, curve.values, index)
            _draw_end(axis, curve.run.last_step, curve.final, index)
        _draw_band(axis, group.over_steps, index)
    axis.set(title=environment.env_id, xlabel="environment steps")
    axis.set_xlim(0, 1.02 * environment.last_step)
    label_steps(axis)


def _draw_over_seconds(axis: "Axes", environment: EnvironmentCurves, indices: Indices) -> None:
    """Draw one environment's curves over wall-clock, those of runs that logged it."""
    longest = max(curve.total_seconds for curve in environment.curves)
    name, unit = time_unit(longest)
    for group in environment.groups:
        index = indices[group.label]
        for curve in group.curves:
            if curve.total_seconds:
                _draw_run(axis, curve.seconds / unit, curve.values, index)
                _draw_end(axis, curve.total_seconds / unit, curve.final, index)
        band = group.over_seconds
        _draw_band(axis, Band(band.at / unit, band.centre, band.low, band.high), index)
    axis.set(xlabel=f"wall-clock of a run ({name})", xlim=(0, 1.02 * longest / unit or 1))
    axis.tick_params(labelleft=True)


def _draw_run(axis: "Axes", at: Array, values: Array, index: int) -> None:
    """Draw one run as a thin line."""
    axis.plot(at, values, color=colour_of(index), lw=0.6, alpha=0.45)


def _draw_end(axis: "Axes", at: float, value: float, index: int) -> None:
    """Draw a run's final value as a dot."""
    axis.plot(at, value, ".", color=colour_of(index), clip_on=False, zorder=4)


def _draw_band(axis: "Axes", band: Band, index: int) -> None:
    """Draw a group's line, and its interval if the group has several runs."""
    colour, marker = colour_of(index), "." if len(band.at) == 1 else ""
    axis.plot(band.at, band.centre, color=colour, linestyle=line_of(index), marker=marker, lw=1.8)
    axis.fill_between(band.at, band.low, band.high, color=colour, alpha=0.18, linewidth=0)


def _handles(
    groups: Sequence[CurveGroup], indices: Indices, with_published: bool
) -> list["Line2D"]:
    """Return the legend's entries: groups with their numbers of runs, then published curves."""
    from matplotlib.lines import Line2D

    handles = []
    for label, index in indices.items():
        sizes = sorted(len(group.curves) for group in groups if group.label == label)
        runs = counted(sizes[0], "run") if sizes[0] == sizes[-1] else f"{sizes[0]}-{sizes[-1]} runs"
        handles.append(group_handle(index, f"{label} ({runs})"))
    for name in NAMES if with_published else ():
        text = f"{NAMES[name]}: published, real StarCraft II"
        handles.append(
            Line2D([], [], color=PUBLISHED_COLOUR, linestyle=DASHES[name], lw=1.3, label=text)
        )
    return handles
