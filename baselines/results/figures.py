"""The figures of "No Representation, No Trust" (Moalla et al. 2024, arXiv 2405.00662), redrawn.

Every function takes runs by the label of their group. It returns a matplotlib figure, or None if no
run logged the metrics that the figure needs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.results import metrics
from baselines.results.drawing import (
    COLOURS,
    add_legend,
    colour_of,
    group_handle,
    label_logarithmic,
    label_steps,
    line_of,
)
from baselines.results.early_warnings import WarningsByGroup
from baselines.results.groups import Groups
from baselines.results.series import (
    FINAL_SHARE,
    RunSeries,
    Series,
    final_mean,
    lowest_rows,
    on_grid,
    window_means,
)
from baselines.results.stats import Array, kendall_tau, spearman_rho
from baselines.results.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_SHARE = 0.01  # of training: 50,000 steps of 5 million as published
LOG_SPAN = 30  # an "auto" axis is logarithmic if its values span a greater factor


@dataclasses.dataclass(frozen=True)
class Panel:
    """The axes of one metric."""

    metric: str
    title: str
    unit: str
    scale: str = "linear"  # or "log"; "auto": logarithmic if values span more than LOG_SPAN


PANELS = (
    Panel(metrics.RETURN, "Return", "episodic return"),
    Panel(metrics.RANK, "Actor rank (PCA)", "approximate rank"),
    Panel(metrics.DEAD_UNITS, "Actor dead units", "units"),
    Panel(metrics.NORM, "Actor pre-activation norm", "mean L2 norm", "log"),
    Panel(metrics.CAPACITY, "Actor capacity loss", "loss on last minibatch", "auto"),
    Panel(metrics.EXCESS, "Excess ratio", "mean above / mean below clip", "auto"),
    Panel(metrics.KL, "Policy change", "KL(old || new) in nats", "log"),
    Panel(metrics.ENTROPY, "Policy entropy", "nats"),
    Panel(metrics.POLICY_VARIANCE, "Policy variance over states", "variance", "auto"),
)
REPRESENTATION = (
    Panel(metrics.DEAD_UNITS, "Dead units", "actor dead units"),
    Panel(metrics.RANK, "Rank", "actor approximate rank (PCA)"),
    Panel(metrics.NORM, "Norm", "actor pre-activation norm", "log"),
)


# Curves over training ----------------------------------------------------------------------------


def draw_curves(groups: Groups, warnings: WarningsByGroup) -> "Figure | None":
    """Draw every metric over environment steps, as figures 1 and 3 of the paper do.

    A line is the mean over a group's runs, its band their minimum and maximum. All metrics except
    the capacity loss are smoothed. A triangle marks an early warning in the panel of its metric.
    """
    panels = [panel for panel in PANELS if has_points(groups, panel.metric)]
    if not panels:
        return None
    figure, axes = _panel_grid(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        _draw_metric(axis, panel, groups)
        for index, label in enumerate(groups):
            of_group = warnings.get(label, ())
            steps = [warning.step for warning in of_group if warning.metric == panel.metric]
            _mark_warnings(axis, steps, index)
        label_steps(axis)
    _add_group_legend(figure, groups)
    return figure


def _draw_metric(axis: "Axes", panel: Panel, groups: Groups) -> None:
    """Draw one metric of all groups: mean lines and bands."""
    drawn = []
    for index, runs in enumerate(groups.values()):
        found = [drawn_series(run, panel.metric) for run in runs if len(run[panel.metric])]
        if not found:
            continue
        steps, rows = on_grid(found)
        mean, low, high = (_over_runs(f, rows) for f in (np.mean, np.min, np.max))
        colour, marker = colour_of(index), "." if max(map(len, found)) < 3 else ""
        axis.plot(steps, mean, color=colour, linestyle=line_of(index), marker=marker, lw=1.5)
        axis.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        drawn += [low, high]
    axis.set(title=panel.title, ylabel=panel.unit, xlabel="environment steps")
    _set_scale(axis, panel, np.concatenate(drawn))


def drawn_series(run: RunSeries, metric: str) -> Series:
    """Return a run's metric as it is drawn: smoothed, except for the few points of the capacity."""
    return run[metric] if metric == metrics.CAPACITY else run[metric].smoothed()


def _over_runs(statistic: Any, rows: Array) -> Array:
    """Return a statistic (points,) over the runs (runs, points) that reach each point."""
    columns = (column[~np.isnan(column)] for column in rows.T)
    return np.array([statistic(column) if len(column) else np.nan for column in columns])


def _mark_warnings(axis: "Axes", steps: Sequence[int], index: int) -> None:
    """Draw triangles at the top of the axes, in a row per group."""
    axis.scatter(
        steps,
        [0.97 - 0.045 * (index % len(COLOURS))] * len(steps),
        marker="v",
        s=36,
        color=colour_of(index),
        edgecolor="white",
        linewidth=0.5,
        transform=axis.get_xaxis_transform(),
        zorder=5,
    ).set_in_layout(False)


# Trust region against representation -------------------------------------------------------------


def draw_trust_region(groups: Groups) -> "Figure | None":
    """Draw the ratios below the clip range against the representation, as the paper's figure 4.

    Both are averaged over windows of 1 % of training. Grey cells count all windows of all runs.
    Points are each run's 20 windows with the lowest ratio; the line, Kendall's tau and Spearman's
    rho are those of all points.
    """
    pairs = {panel: _ratio_pairs(groups, panel.metric) for panel in REPRESENTATION}
    by_run = [rows for by_group in pairs.values() for runs in by_group.values() for rows in runs]
    if not any(map(len, by_run)):
        return None
    figure, axes = _panel_grid(len(REPRESENTATION), height=3.4)
    for axis, (panel, by_group) in zip(axes, pairs.items(), strict=True):
        _draw_pairs(axis, panel, by_group)
    axes[0].set_ylabel("mean ratio below the clip range")
    _add_group_legend(figure, groups, marker="o")
    return figure


def _ratio_pairs(groups: Groups, metric: str) -> dict[str, list[Array]]:
    """Return the ratio and the metric of each window, (windows, 2) per run, by group."""
    return {
        label: [
            window_means([run[metrics.BELOW_CLIP], run[metric]], WINDOW_SHARE * run.total_steps)
            for run in runs
        ]
        for label, runs in groups.items()
    }


def _draw_pairs(axis: "Axes", panel: Panel, by_group: Mapping[str, Sequence[Array]]) -> None:
    """Draw the windows of all runs, (windows, 2) each, as cells, points and a line."""
    lowest = {label: [lowest_rows(rows) for rows in runs] for label, runs in by_group.items()}
    chosen = np.concatenate([rows for runs in lowest.values() for rows in runs])  # (points, 2)
    every = np.concatenate([rows for runs in by_group.values() for rows in runs])  # (windows, 2)
    ratio, metric = chosen.T
    tau, rho = kendall_tau(metric, ratio), spearman_rho(metric, ratio)
    title = f"{panel.title}: τ = {_correlation_text(tau)}, ρ = {_correlation_text(rho)}"
    axis.set(title=title, xlabel=panel.unit)
    if not len(every):
        return
    _draw_heat_map(axis, every, panel.scale == "log")
    for index, runs in enumerate(lowest.values()):
        rows = np.concatenate(runs)  # (points of the group, 2)
        axis.scatter(rows[:, 1], rows[:, 0], s=11, color=colour_of(index), alpha=0.75, linewidth=0)
    _draw_regression(axis, metric, ratio, panel.scale == "log")


def _draw_heat_map(axis: "Axes", rows: Array, logarithmic: bool, cells: int = 24) -> None:
    """Shade each cell by the number of windows (windows, 2) in it."""
    ratio, metric = rows.T
    counts, across, up = np.histogram2d(
        metric, ratio, bins=(_edges(metric, cells, logarithmic), _edges(ratio, cells, False))
    )
    shaded = np.where(counts > 0, counts, np.nan).T  # (cells up, cells across)
    mesh = axis.pcolormesh(
        across, up, shaded, cmap="Greys", vmin=0, vmax=1.6 * counts.max(), zorder=0
    )
    mesh.set_rasterized(True)  # an image is smaller than hundreds of cells
    bar = axis.figure.colorbar(mesh, ax=axis, shrink=0.85, pad=0.02)
    bar.set_label("windows", fontsize=8)
    bar.ax.set_ylim(0, max(1.0, counts.max()))
    bar.ax.locator_params(axis="y", integer=True, nbins=4)
    if logarithmic:
        axis.set_xscale("log")
        label_logarithmic(axis.xaxis, metric)


def _edges(values: Array, cells: int, logarithmic: bool) -> Array:
    """Return the edges of equal cells around all values, (cells + 1,)."""
    low, high = float(values.min()), float(values.max())
    if logarithmic and low > 0:
        return np.geomspace(low / 1.02, high * 1.02, cells + 1)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, cells + 1)


def _draw_regression(axis: "Axes", x: Array, y: Array, logarithmic: bool) -> None:
    """Draw the least-squares line, of the logarithm of x if the axis is logarithmic."""
    seen = np.log(x) if logarithmic else x
    if len(np.unique(seen)) < 2:
        return
    slope, intercept = np.polyfit(seen, y, 1)
    ends = np.linspace(seen.min(), seen.max(), 50)
    axis.plot(np.exp(ends) if logarithmic else ends, slope * ends + intercept, "k-", lw=1.2)


def _correlation_text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


# Box plots over runs -----------------------------------------------------------------------------


def draw_boxes(groups: Groups) -> "Figure | None":
    """Draw the final value of each run as a point, and a box per group."""
    panels = [panel for panel in PANELS if has_points(groups, panel.metric)]
    if not panels:
        return None
    figure, axes = _panel_grid(len(panels), height=2.3)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_box(axis, panel, groups)
    _add_group_legend(figure, groups, marker="s")
    return figure


def _draw_box(axis: "Axes", panel: Panel, groups: Groups) -> None:
    """Draw the final values of one metric, with a box per group."""
    drawn = []
    for index, runs in enumerate(groups.values()):
        values = np.array([final_value(run, panel.metric) for run in runs])
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        colour = colour_of(index)
        boxes = axis.boxplot(values, positions=[index], widths=0.6, patch_artist=True, sym="")
        boxes["boxes"][0].set(facecolor=colour, alpha=0.3, edgecolor=colour)
        boxes["medians"][0].set(color=colour, linewidth=2)
        axis.scatter([index] * len(values), values, s=14, color=colour, zorder=3)
        drawn.append(values)
    axis.set(title=panel.title, ylabel=panel.unit, xlim=(-0.7, len(groups) - 0.3), xticks=[])
    _set_scale(axis, panel, np.concatenate(drawn))


def final_value(run: RunSeries, metric: str) -> float:
    """Return a metric's mean over the last 5 % of a run's steps, NaN if the run lacks the metric.

    The excess ratio is that of the paper's figure 6 if the run logged it.
    """
    if metric == metrics.EXCESS and len(run[metrics.EXCESS_WINDOW]):
        return float(run[metrics.EXCESS_WINDOW].values[-1])
    before = 1 if metric == metrics.CAPACITY else 0  # as published: checkpoints are few
    return final_mean(run[metric], FINAL_SHARE * run.last_step, before)


# Axes --------------------------------------------------------------------------------------------


def has_points(groups: Groups, metric: str) -> bool:
    """Return whether any run logged a metric."""
    return any(len(run[metric]) for runs in groups.values() for run in runs)


def _panel_grid(count: int, height: float = 2.6) -> tuple["Figure", list["Axes"]]:
    """Return a figure with `count` axes in three or four columns, whichever leaves fewer gaps."""
    from matplotlib.figure import Figure

    columns = min((4, 3), key=lambda columns: -count % columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(13, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()  # (rows * columns)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _add_group_legend(figure: "Figure", groups: Groups, marker: str = "") -> None:
    """Name the groups and their numbers of runs below the axes."""
    handles = [
        group_handle(index, f"{label} ({counted(len(runs), 'run')})", marker)
        for index, (label, runs) in enumerate(groups.items())
    ]
    add_legend(figure, handles, characters=170)


def _set_scale(axis: "Axes", panel: Panel, values: Array) -> None:
    """Make the vertical axis logarithmic if its panel or its values (points,) ask for it."""
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return
    if panel.scale == "log" or (panel.scale == "auto" and values.max() > LOG_SPAN * values.min()):
        axis.set_yscale("log")
        label_logarithmic(axis.yaxis, values)
