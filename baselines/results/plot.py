"""`baselines plot`: learning curves of runs by environment steps and by wall-clock.

It writes one figure with a row an environment, as SVG and PNG, and all numbers drawn as JSON.
"""

import dataclasses
import io
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.config import PlotConfig
from baselines.errors import UsageError
from baselines.results import figures, stats
from baselines.results.curves import (
    EPISODE_MEANS,
    STATISTICS,
    WIN_RATE,
    Band,
    Environment,
    Group,
    interval,
    make_curves,
    read_metric,
    score_matrices,
)
from baselines.results.published import NAMES, Published, is_published, published
from baselines.results.report import Table, count, damage, number, text_table
from baselines.results.series import Array, RunSeries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "learning_curves"  # of the files, where --out is a folder
ENDINGS = (".svg", ".png", ".json")
PUBLISHED_COLOUR = "#777777"
DASHES = {"mappo": (0, (6, 2)), "qmix": (0, (2, 1.5)), "open_loop": (0, (1, 3))}
UNITS = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0))
Overlays = dict[str, dict[str, Published]]  # by environment and algorithm
Indices = dict[str, int]  # of the groups' labels; they choose the colours


def main(config: PlotConfig) -> int:
    """Draw the curves, print what they end in; return the exit status."""
    figures.require_matplotlib()
    runs = read_metric(config.runs, config.metric)
    environments = make_curves(
        runs,
        config.metric,
        statistic=config.statistic,
        bin_steps=config.bin_steps,
        fields=config.label,
    )
    if not environments:
        raise UsageError("every run is shorter than half a bin: lower --bin-steps")
    overlays = find_overlays(environments, config.metric) if config.published else {}
    base = files_base(config.out)
    with figures.style(salt=base.name):
        figure = draw(environments, overlays, config.metric)
        save(base, figure, content(environments, overlays, config))
    for environment in environments:
        print(heading(environment, config.metric))
        overlay = overlays.get(environment.id, {})
        print(text_table(final_table(environment, overlay, config.statistic)))
    if config.metric == WIN_RATE:
        print_suite(score_matrices(environments), len(environments))
    for line in remarks(runs, environments, config.metric):
        print(line)
    print(f"figure: {base}.svg, .png; numbers: {base}.json")
    return 0


def find_overlays(environments: Sequence[Environment], metric: str) -> Overlays:
    """Return the published curves of the environments that have any.

    Raises:
        UsageError: none has, or the metric is not the win rate.
    """
    if metric != WIN_RATE:
        raise UsageError(f"--published: the published curves are {WIN_RATE}, not {metric}")
    known = [one.id for one in environments if is_published(one.id)]
    if not known:
        names = ", ".join(one.id for one in environments)
        raise UsageError(f"--published: only SMACv2's 15 scenarios are published, not {names}")
    return {env_id: {name: published(env_id, name) for name in NAMES} for env_id in known}


def remarks(
    runs: Sequence[RunSeries], environments: Sequence[Environment], metric: str
) -> list[str]:
    """Return lines that say what could not be read or drawn, and why."""
    groups = [(one.id, group) for one in environments for group in one.groups]
    drawn = {curve.run.path for _, group in groups for curve in group.curves}
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.path not in drawn:
            reason = f"no {metric}" if run.last_step else "nothing logged yet"
            reason = "shorter than half a bin" if len(run[metric]) else reason
            reasons.setdefault(reason, []).append(str(run.path))
    lines = damage(runs)
    for reason, paths in reasons.items():
        lines.append(f"{count(len(paths), 'run')} of {len(runs)}: {reason}: {', '.join(paths)}")
    for env_id, group in groups:
        if len({curve.run.seed for curve in group.curves}) < len(group.curves):
            lines.append(f"{env_id}, {group.label}: a seed comes twice; intervals are too narrow")
    return lines


# The figure --------------------------------------------------------------------------------------


def draw(environments: Sequence[Environment], overlays: Overlays, metric: str) -> "Figure":
    """Return the figure: a row an environment, steps to the left and wall-clock to the right."""
    from matplotlib.figure import Figure

    labels = dict.fromkeys(group.label for one in environments for group in one.groups)
    indices = {label: index for index, label in enumerate(labels)}
    figure = Figure(figsize=(11, 3.2 * len(environments)), layout="constrained")
    rows = figure.subplots(len(environments), 2, squeeze=False, sharey="row")
    for (left, right), environment in zip(rows, environments, strict=True):
        draw_steps(left, environment, overlays.get(environment.id, {}), indices)
        draw_seconds(right, environment, indices)
        over = "episodes" if metric in EPISODE_MEANS else "iterations"
        left.set_ylabel(f"{metric}\nmean over the {over} of {environment.bin_steps:,} steps")
    lines = draw_legend(figure, environments, indices, with_published=bool(overlays))
    figure.set_figheight(figure.get_figheight() + 0.22 * lines + 0.2)
    return figure


def draw_steps(
    axis: "Axes", environment: Environment, overlay: dict[str, Published], indices: Indices
) -> None:
    """Draw one environment's curves over steps, the published ones below them."""
    for name, curves in overlay.items():
        shown = slice(np.searchsorted(curves.middles, environment.last_step) + 1)
        at, mean = curves.middles[shown], curves.mean[shown]
        axis.plot(at, mean, color=PUBLISHED_COLOUR, linestyle=DASHES[name], lw=1.3)
    for group in environment.groups:
        index = indices[group.label]
        for curve in group.curves:
            draw_run(axis, curve.steps, curve.values, index)
            draw_end(axis, curve.run.last_step, curve.final, index)
        draw_band(axis, group.over_steps, index)
    axis.set(title=environment.id, xlabel="environment steps")
    axis.set_xlim(0, 1.02 * environment.last_step)
    figures.count_steps(axis)


def draw_seconds(axis: "Axes", environment: Environment, indices: Indices) -> None:
    """Draw one environment's curves over wall-clock, those of runs that logged it."""
    longest = max(curve.total_seconds for group in environment.groups for curve in group.curves)
    name, unit = time_unit(longest)
    for group in environment.groups:
        index = indices[group.label]
        for curve in group.curves:
            if curve.total_seconds:
                draw_run(axis, curve.seconds / unit, curve.values, index)
                draw_end(axis, curve.total_seconds / unit, curve.final, index)
        band = group.over_seconds
        draw_band(axis, Band(band.at / unit, band.centre, band.low, band.high), index)
    axis.set(xlabel=f"wall-clock of a run ({name})", xlim=(0, 1.02 * longest / unit or 1))
    axis.tick_params(labelleft=True)


def draw_run(axis: "Axes", at: Array, values: Array, index: int) -> None:
    """Draw one run as a thin line."""
    axis.plot(at, values, color=figures.colour_of(index), lw=0.6, alpha=0.45)


def draw_end(axis: "Axes", at: float, value: float, index: int) -> None:
    """Draw a run's final value as a dot."""
    axis.plot(at, value, ".", color=figures.colour_of(index), clip_on=False, zorder=4)


def draw_band(axis: "Axes", band: Band, index: int) -> None:
    """Draw a group's line, and its interval where it has several runs."""
    colour = figures.colour_of(index)
    marker = "." if len(band.at) == 1 else ""
    axis.plot(
        band.at, band.centre, color=colour, linestyle=figures.line_of(index), marker=marker, lw=1.8
    )
    axis.fill_between(band.at, band.low, band.high, color=colour, alpha=0.18, linewidth=0)


def draw_legend(
    figure: "Figure", environments: Sequence[Environment], indices: Indices, with_published: bool
) -> int:
    """Name the groups, with their numbers of runs, and the published curves below the panels.

    Returns:
        How many lines that takes.
    """
    from matplotlib.lines import Line2D

    handles = []
    for label, index in indices.items():
        sizes = sorted(
            len(group.curves)
            for one in environments
            for group in one.groups
            if group.label == label
        )
        runs = count(sizes[0], "run") if sizes[0] == sizes[-1] else f"{sizes[0]}-{sizes[-1]} runs"
        colour, line = figures.colour_of(index), figures.line_of(index)
        handles.append(Line2D([], [], color=colour, linestyle=line, label=f"{label} ({runs})"))
    for name in NAMES if with_published else ():
        text = f"{NAMES[name]}: published, real StarCraft II"
        handles.append(
            Line2D([], [], color=PUBLISHED_COLOUR, linestyle=DASHES[name], lw=1.3, label=text)
        )
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 140 // (widest + 6)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return math.ceil(len(handles) / columns)


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit in which a duration is shown, and its seconds."""
    return next((unit for unit in UNITS if seconds < 120 * unit[1]), UNITS[-1])


# Tables ------------------------------------------------------------------------------------------


def heading(environment: Environment, metric: str) -> str:
    """Return the line above an environment's table."""
    runs = count(sum(len(group.curves) for group in environment.groups), "run")
    return (
        f"{environment.id}: {runs}, {metric}; final: over the last 5 % of steps;"
        f" area: mean height of the curve up to {environment.common_steps:,.0f} steps"
    )


def final_table(environment: Environment, overlay: dict[str, Published], statistic: str) -> Table:
    """Return what each group ended in, and the published runs at about the same step."""
    head = ("group", "seeds", "final by seed", statistic, "95 % interval", "area", "steps")
    head += ("steps/s", "wall-clock")
    rows = [group_row(group, environment.common_steps, statistic) for group in environment.groups]
    for name, curves in overlay.items():
        finals = curves.near(environment.last_step)
        if len(finals):
            cells = score_cells(finals[:, None], statistic)
            steps = f"about {environment.last_step:,}"
            rows.append((f"published {NAMES[name]}", "–", *cells, "–", steps, "–", "–"))
    return head, rows


def group_row(group: Group, limit: float, statistic: str) -> tuple[str, ...]:
    """Return a group's cells; areas, steps, speeds and times are means over its runs."""
    curves = group.curves
    return (
        group.label,
        ",".join(str(curve.run.seed) for curve in curves),
        *score_cells(group.finals, statistic),
        number(_mean(curve.area(limit) for curve in curves)),
        whole(_mean(curve.run.last_step for curve in curves)),
        whole(_mean(curve.steps_per_second for curve in curves)),
        duration(_mean(curve.total_seconds for curve in curves)),
    )


def score_cells(scores: Array, statistic: str) -> tuple[str, str, str]:
    """Return scores (runs, 1), their statistic and its interval as text."""
    by_seed = " / ".join(number(score) for score in scores[:, 0])
    function = STATISTICS[statistic]
    return by_seed, number(float(function(scores))), between(*interval(scores, function))


def print_suite(matrices: dict[str, Array], tasks: int) -> None:
    """Print IQM and probability of improvement over several environments.

    Args:
        matrices: scores (runs, tasks) by label.
        tasks: number of environments; nothing is printed for one.
    """
    if tasks < 2 or not matrices:
        return
    rows = [
        (label, number(float(stats.iqm(scores))), between(*interval(scores, stats.iqm)))
        for label, scores in matrices.items()
    ]
    print(f"over all {tasks} environments:")
    print(text_table((("group", "iqm", "95 % interval"), rows)))
    pairs = []
    for (first, x), (second, y) in itertools.combinations(matrices.items(), 2):
        chance = stats.probability_of_improvement(x, y)
        bounds = interval((x, y), stats.probability_of_improvement)
        pairs.append((first, second, number(chance), between(*bounds)))
    if pairs:
        print(text_table((("a run of", "beats one of", "probability", "95 % interval"), pairs)))


def whole(value: float) -> str:
    """Return a number without decimals, a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def between(low: Array, high: Array) -> str:
    """Return an interval as text, a dash where there is none."""
    return "–" if np.isnan(low) else f"{low:.4g} to {high:.4g}"


def duration(seconds: float) -> str:
    """Return a time with its unit, a dash where none was logged."""
    name, unit = time_unit(seconds)
    return f"{seconds / unit:.1f} {name}" if seconds else "–"


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# Files -------------------------------------------------------------------------------------------


def files_base(out: str) -> Path:
    """Return the path of the files but for their endings.

    Args:
        out: that path, one of the files, or a folder.
    """
    path = Path(out)
    if path.suffix in ENDINGS:
        return path.with_suffix("")
    return path / NAME if path.is_dir() or out.endswith("/") else path


def content(
    environments: Sequence[Environment], overlays: Overlays, config: PlotConfig
) -> dict[str, Any]:
    """Return all numbers drawn, as the JSON file holds them; NaN becomes null."""
    found = {}
    for one in environments:
        overlay = overlays.get(one.id, {})
        found[one.id] = {
            "bin_steps": one.bin_steps,
            "common_steps": one.common_steps,
            "groups": {
                group.label: group_content(group, one.common_steps, config.statistic)
                for group in one.groups
            },
            "published": {
                name: {"steps": curves.middles, "mean": curves.mean}
                for name, curves in overlay.items()
            },
        }
    about = {"metric": config.metric, "statistic": config.statistic, "interval": stats.LEVEL}
    return _plain({**about, "environments": found})


def group_content(group: Group, limit: float, statistic: str) -> dict[str, Any]:
    """Return a group's numbers: its runs, what they end in, and its two curves."""
    function = STATISTICS[statistic]
    runs = [
        {
            "folder": str(curve.run.path),
            "seed": curve.run.seed,
            "steps_done": curve.run.last_step,
            "wall_clock_seconds": curve.total_seconds,
            "steps_per_second": curve.steps_per_second,
            "final": curve.final,
            "area": curve.area(limit),
            "steps": curve.steps,
            "seconds": curve.seconds,
            "values": curve.values,
        }
        for curve in group.curves
    ]
    return {
        "runs": runs,
        "final": function(group.finals),
        "final_interval": interval(group.finals, function),
        "over_steps": dataclasses.asdict(group.over_steps),
        "over_seconds": dataclasses.asdict(group.over_seconds),
    }


def save(base: Path, figure: "Figure", numbers: dict[str, Any]) -> None:
    """Write the figure as SVG and PNG and the numbers as JSON, each file whole or not at all.

    Raises:
        UsageError: they cannot be written.
    """
    vector, pixels = io.BytesIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.set_layout_engine("none")  # laid out once, which takes most of the time
    figure.savefig(pixels, format="png", dpi=130)
    text = json.dumps(numbers, allow_nan=False) + "\n"
    files = (vector.getvalue(), pixels.getvalue(), text.encode())
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        for ending, data in zip(ENDINGS, files, strict=True):
            temporary = base.with_name(f".tmp_{base.name}{ending}")
            temporary.write_bytes(data)
            temporary.replace(base.with_name(base.name + ending))
    except OSError as error:
        raise UsageError(f"--out {base.parent}: {error}") from error


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
