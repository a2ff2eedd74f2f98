"""The figures of "No Representation, No Trust" (Moalla et al. 2024, arXiv 2405.00662), drawn anew.

Every function takes runs by the label of their group and returns a matplotlib figure, or None where
nothing was logged that it could show. matplotlib comes with the extra `plots`.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.errors import UsageError
from baselines.results import series as names
from baselines.results.early_warnings import EarlyWarning
from baselines.results.series import (
    FINAL_SHARE,
    Array,
    RunSeries,
    Series,
    final_mean,
    kendall_tau,
    lowest_rows,
    on_grid,
    spearman_rho,
    window_means,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Groups = Mapping[str, Sequence[RunSeries]]  # runs by the label of their group

# Okabe and Ito 2008: eight colours that the colour-blind can tell apart, less yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
LINES = ("-", "--", ":", "-.")  # further groups take the colours again with the next of these
WINDOW_SHARE = 0.01  # of training: 50,000 steps of 5 million as published
LOG_SPAN = 30  # a panel that spans a greater factor gets a logarithmic axis
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One metric as it is drawn."""

    metric: str
    title: str
    unit: str
    scale: str = "linear"  # or "log"; "auto": logarithmic where values span more than LOG_SPAN


PANELS = (
    Panel(names.RETURN, "Return", "episodic return"),
    Panel(names.RANK, "Actor rank (PCA)", "approximate rank"),
    Panel(names.DEAD_UNITS, "Actor dead units", "units"),
    Panel(names.NORM, "Actor pre-activation norm", "mean L2 norm", "log"),
    Panel(names.CAPACITY, "Actor capacity loss", "loss on last minibatch", "auto"),
    Panel(names.EXCESS, "Excess ratio", "mean above / mean below clip", "auto"),
    Panel(names.KL, "Policy change", "KL(old || new) in nats", "log"),
    Panel(names.ENTROPY, "Policy entropy", "nats"),
    Panel(names.POLICY_VARIANCE, "Policy variance over states", "variance", "auto"),
)
REPRESENTATION = (
    Panel(names.DEAD_UNITS, "Dead units", "actor dead units"),
    Panel(names.RANK, "Rank", "actor approximate rank (PCA)"),
    Panel(names.NORM, "Norm", "actor pre-activation norm", "log"),
)


def require_matplotlib() -> None:
    """Raise `UsageError` where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'smacv2-suite[plots]'") from error


@contextmanager
def style(salt: str) -> Iterator[None]:
    """Draw and save in the house style.

    Args:
        salt: makes the ids in an SVG its own, so that several can stand in one page.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        yield


# Curves over training ----------------------------------------------------------------------------


def draw_curves(groups: Groups, warnings: Mapping[str, Sequence[EarlyWarning]]) -> "Figure | None":
    """Draw every metric over environment steps, as figures 1 and 3 of the paper do.

    A line is the mean over a group's runs, its band their minimum and maximum; all but the capacity
    loss are smoothed. A triangle marks an early warning in the panel of its metric.
    """
    panels = [panel for panel in PANELS if has_points(groups, panel.metric)]
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, groups)
        for index, label in enumerate(groups):
            steps = [one.step for one in warnings.get(label, ()) if one.metric == panel.metric]
            _mark(axis, steps, index)
        count_steps(axis)
    _legend(figure, groups)
    return figure


def _draw_panel(axis: "Axes", panel: Panel, groups: Groups) -> None:
    drawn = []
    for index, runs in enumerate(groups.values()):
        found = [curve(run, panel.metric) for run in runs if len(run[panel.metric])]
        if not found:
            continue
        steps, rows = on_grid(found)
        mean, low, high = (_over_runs(f, rows) for f in (np.mean, np.min, np.max))
        marker = "." if max(map(len, found)) < 3 else ""
        axis.plot(
            steps, mean, color=colour_of(index), linestyle=line_of(index), marker=marker, lw=1.5
        )
        axis.fill_between(steps, low, high, color=colour_of(index), alpha=0.18, linewidth=0)
        drawn += [low, high]
    axis.set(title=panel.title, ylabel=panel.unit, xlabel="environment steps")
    _set_scale(axis, panel, np.concatenate(drawn))


def curve(run: RunSeries, metric: str) -> Series:
    """Return what is drawn of a run's metric: smoothed, but for the few points of the capacity."""
    return run[metric] if metric == names.CAPACITY else run[metric].smoothed()


def _over_runs(statistic: Any, rows: Array) -> Array:
    """Return a statistic (points,) over the runs (runs, points) that reach each point."""
    columns = (column[~np.isnan(column)] for column in rows.T)
    return np.array([statistic(column) if len(column) else np.nan for column in columns])


def _mark(axis: "Axes", steps: Sequence[int], index: int) -> None:
    """Put triangles at the top, those of each group in a row of its own."""
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

    Both are averaged over windows of 1 % of training. Grey cells count all windows of all runs;
    points are each run's 20 windows with the lowest ratio, and the line, Kendall's tau and
    Spearman's rho are those of all points.
    """
    pairs = {panel: _ratio_pairs(groups, panel.metric) for panel in REPRESENTATION}
    if not any(len(rows) for runs in pairs.values() for one in runs.values() for rows in one):
        return None
    figure, axes = _grid(len(REPRESENTATION), height=3.4)
    for axis, (panel, by_group) in zip(axes, pairs.items(), strict=True):
        _draw_pairs(axis, panel, by_group)
    axes[0].set_ylabel("mean ratio below the clip range")
    _legend(figure, groups, marker="o")
    return figure


def _ratio_pairs(groups: Groups, metric: str) -> dict[str, list[Array]]:
    """Return for each run of each group its windows' ratio and metric, (windows, 2)."""
    return {
        label: [
            window_means([run[names.BELOW_CLIP], run[metric]], WINDOW_SHARE * run.total_steps)
            for run in runs
        ]
        for label, runs in groups.items()
    }


def _draw_pairs(axis: "Axes", panel: Panel, by_group: Mapping[str, Sequence[Array]]) -> None:
    lowest = {label: [lowest_rows(rows) for rows in runs] for label, runs in by_group.items()}
    chosen = np.concatenate([rows for runs in lowest.values() for rows in runs])
    every = np.concatenate([rows for runs in by_group.values() for rows in runs])
    ratio, metric = chosen.T
    tau, rho = kendall_tau(metric, ratio), spearman_rho(metric, ratio)
    axis.set(title=f"{panel.title}: τ = {_number(tau)}, ρ = {_number(rho)}", xlabel=panel.unit)
    if not len(every):
        return
    _heat_map(axis, every, panel.scale == "log")
    for index, runs in enumerate(lowest.values()):
        rows = np.concatenate(runs)
        axis.scatter(rows[:, 1], rows[:, 0], s=11, color=colour_of(index), alpha=0.75, linewidth=0)
    _regression(axis, metric, ratio, panel.scale == "log")


def _heat_map(axis: "Axes", rows: Array, logarithmic: bool, cells: int = 24) -> None:
    """Shade how many windows (windows, 2) fall into each cell."""
    ratio, metric = rows.T
    counts, across, up = np.histogram2d(
        metric, ratio, bins=(_edges(metric, cells, logarithmic), _edges(ratio, cells, False))
    )
    shaded = np.where(counts > 0, counts, np.nan).T
    mesh = axis.pcolormesh(
        across, up, shaded, cmap="Greys", vmin=0, vmax=1.6 * counts.max(), zorder=0
    )
    mesh.set_rasterized(True)  # hundreds of cells: an image is smaller
    bar = axis.figure.colorbar(mesh, ax=axis, shrink=0.85, pad=0.02)
    bar.set_label("windows", fontsize=8)
    bar.ax.set_ylim(0, max(1.0, counts.max()))
    bar.ax.locator_params(axis="y", integer=True, nbins=4)
    if logarithmic:
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis, metric)


def _edges(values: Array, cells: int, logarithmic: bool) -> Array:
    low, high = float(values.min()), float(values.max())
    if logarithmic and low > 0:
        return np.geomspace(low / 1.02, high * 1.02, cells + 1)
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, cells + 1)


def _regression(axis: "Axes", x: Array, y: Array, logarithmic: bool) -> None:
    seen = np.log(x) if logarithmic else x
    if len(np.unique(seen)) < 2:
        return
    slope, intercept = np.polyfit(seen, y, 1)
    ends = np.linspace(seen.min(), seen.max(), 50)
    axis.plot(np.exp(ends) if logarithmic else ends, slope * ends + intercept, "k-", lw=1.2)


# Box plots over runs -----------------------------------------------------------------------------


def draw_boxes(groups: Groups) -> "Figure | None":
    """Draw where each group's runs ended: one point a run, and the box of the group.

    A point is the mean over the last 5 % of training; of the excess ratio it is that of the paper's
    figure 6 where the run logged it.
    """
    panels = [panel for panel in PANELS if has_points(groups, panel.metric)]
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=2.3)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_box(axis, panel, groups)
    _legend(figure, groups, marker="s")
    return figure


def _draw_box(axis: "Axes", panel: Panel, groups: Groups) -> None:
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
    """Return the number that a run puts into a box plot, NaN where it logged none."""
    if metric == names.EXCESS and len(run[names.EXCESS_WINDOW]):
        return float(run[names.EXCESS_WINDOW].values[-1])
    before = 1 if metric == names.CAPACITY else 0  # as published: checkpoints are few
    return final_mean(run[metric], FINAL_SHARE * run.last_step, before)


# Shared ------------------------------------------------------------------------------------------


def has_points(groups: Groups, metric: str) -> bool:
    """Say whether any run logged a metric."""
    return any(len(run[metric]) for runs in groups.values() for run in runs)


def _grid(count: int, height: float = 2.6) -> tuple["Figure", list["Axes"]]:
    """Return a figure with `count` axes in three or four columns, whichever leaves fewer gaps."""
    from matplotlib.figure import Figure

    columns = min((4, 3), key=lambda columns: -count % columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(13, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _legend(figure: "Figure", groups: Groups, marker: str = "") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=colour_of(index),
            linestyle="" if marker else line_of(index),
            marker=marker,
            label=f"{label} ({len(runs)} run{'s' if len(runs) > 1 else ''})",
        )
        for index, (label, runs) in enumerate(groups.items())
    ]
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 170 // (widest + 6)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _set_scale(axis: "Axes", panel: Panel, values: Array) -> None:
    """Make the vertical axis logarithmic where its panel or its values (points,) ask for it."""
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return
    if panel.scale == "log" or (panel.scale == "auto" and values.max() > LOG_SPAN * values.min()):
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis, values)


def _plain_ticks(axis: "Axis", values: Array) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10 ..., with powers of ten where values span many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0, 2.0, 5.0) if values.max() < 100 * values.min() else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def count_steps(axis: "Axes") -> None:
    """Label a horizontal axis with steps as 500k, 1M ..."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5))


def colour_of(index: int) -> str:
    """Return the colour of the group with this index."""
    return COLOURS[index % len(COLOURS)]


def line_of(index: int) -> str:
    """Return the line style of the group with this index."""
    return LINES[index // len(COLOURS) % len(LINES)]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")
