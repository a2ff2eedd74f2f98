"""`baselines plot`: learning curves of runs by environment steps and by wall-clock.

It writes one figure as SVG and PNG, and all numbers of the figure as JSON. From the command to the
axes: `main` reads runs and makes their curves (curves.py), curve_figure.py draws them.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from baselines.config import PlotConfig
from baselines.errors import UsageError
from baselines.results import stats
from baselines.results.curve_figure import Overlays, draw_learning_curves
from baselines.results.curves import (
    AGGREGATES,
    CurveGroup,
    EnvironmentCurves,
    interval,
    make_curves,
    read_metric,
    score_matrices,
)
from baselines.results.drawing import house_style, rendered, require_matplotlib
from baselines.results.files import base_path, write_files
from baselines.results.groups import damage_notes, left_out_note
from baselines.results.metrics import WIN_RATE
from baselines.results.published import NAMES, Published, is_published, published
from baselines.results.series import RunSeries
from baselines.results.stats import Array
from baselines.results.tables import (
    Table,
    counted,
    duration_cell,
    integer_cell,
    interval_cell,
    number_cell,
    text_table,
)

DEFAULT_NAME = "learning_curves"  # of the files if --out is a folder
ENDINGS = (".svg", ".png", ".json")


def main(config: PlotConfig) -> int:
    """Draw the curves, print their final values; return the exit status."""
    require_matplotlib()
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
    base = base_path(config.out, DEFAULT_NAME, ENDINGS)
    with house_style(salt=base.name):
        contents = rendered(draw_learning_curves(environments, overlays, config.metric))
    numbers = json.dumps(plot_numbers(environments, overlays, config), allow_nan=False) + "\n"
    write_files(base, {**contents, ".json": numbers.encode()})
    for environment in environments:
        print(heading(environment, config.metric))
        overlay = overlays.get(environment.env_id, {})
        print(text_table(final_table(environment, overlay, config.statistic)))
    if config.metric == WIN_RATE:
        print_suite(score_matrices(environments), len(environments))
    for note in plot_notes(runs, environments, config.metric):
        print(note)
    print(f"figure: {base}.svg, .png; numbers: {base}.json")
    return 0


def find_overlays(environments: Sequence[EnvironmentCurves], metric: str) -> Overlays:
    """Return the published curves of the environments that have any.

    Raises:
        UsageError: none has, or the metric is not the win rate.
    """
    if metric != WIN_RATE:
        raise UsageError(f"--published: the published curves are {WIN_RATE}, not {metric}")
    env_ids = [environment.env_id for environment in environments]
    known = [env_id for env_id in env_ids if is_published(env_id)]
    if not known:
        names = ", ".join(env_ids)
        raise UsageError(f"--published: only SMACv2's 15 scenarios are published, not {names}")
    return {env_id: {name: published(env_id, name) for name in NAMES} for env_id in known}


def plot_notes(
    runs: Sequence[RunSeries], environments: Sequence[EnvironmentCurves], metric: str
) -> list[str]:
    """Return a line per reason for which runs could not be read or drawn."""
    drawn = {curve.run.path for environment in environments for curve in environment.curves}
    reasons: dict[str, list[RunSeries]] = {}
    for run in runs:
        if run.path not in drawn:
            reason = f"no {metric}" if run.last_step else "nothing logged yet"
            reason = "shorter than half a bin" if len(run[metric]) else reason
            reasons.setdefault(reason, []).append(run)
    notes = damage_notes(runs)
    notes += [left_out_note(left_out, runs, reason) for reason, left_out in reasons.items()]
    for environment in environments:
        for group in environment.groups:
            if len({curve.run.seed for curve in group.curves}) < len(group.curves):
                where = f"{environment.env_id}, {group.label}"
                notes.append(f"{where}: a seed comes twice; intervals are too narrow")
    return notes


# Tables ------------------------------------------------------------------------------------------


def heading(environment: EnvironmentCurves, metric: str) -> str:
    """Return the line above an environment's table."""
    return (
        f"{environment.env_id}: {counted(len(environment.curves), 'run')}, {metric}; final: over"
        " the last 5 % of steps; area: mean height of the curve up to"
        f" {environment.common_steps:,.0f} steps"
    )


def final_table(
    environment: EnvironmentCurves, overlay: dict[str, Published], statistic: str
) -> Table:
    """Return the final values of each group, and of the published runs at about the same step."""
    head = ("group", "seeds", "final by seed", statistic, "95 % interval", "area", "steps")
    head += ("steps/s", "wall-clock")
    rows = [group_row(group, environment.common_steps, statistic) for group in environment.groups]
    for name, curves in overlay.items():
        finals = curves.near(environment.last_step)
        if len(finals):
            cells = score_cells(finals[:, None], statistic)
            steps = f"about {environment.last_step:,}"
            rows.append((f"published {NAMES[name]}", "–", *cells, "–", steps, "–", "–"))
    return Table(head, rows)


def group_row(group: CurveGroup, limit: float, statistic: str) -> tuple[str, ...]:
    """Return a group's cells; areas, steps, speeds and times are means over its runs."""
    curves = group.curves
    return (
        group.label,
        ",".join(str(curve.run.seed) for curve in curves),
        *score_cells(group.finals, statistic),
        number_cell(_mean_of(curve.area(limit) for curve in curves)),
        integer_cell(_mean_of(curve.run.last_step for curve in curves)),
        integer_cell(_mean_of(curve.steps_per_second for curve in curves)),
        duration_cell(_mean_of(curve.total_seconds for curve in curves)),
    )


def score_cells(scores: Array, statistic: str) -> tuple[str, str, str]:
    """Return scores (runs, 1), their statistic and its interval as text."""
    by_seed = " / ".join(number_cell(score) for score in scores[:, 0])
    function = AGGREGATES[statistic]
    return by_seed, number_cell(float(function(scores))), interval_cell(*interval(scores, function))


def print_suite(matrices: dict[str, Array], tasks: int) -> None:
    """Print IQM and probability of improvement over several environments.

    Args:
        matrices: scores (runs, tasks) by label.
        tasks: number of environments; nothing is printed for a single one.
    """
    if tasks < 2 or not matrices:
        return
    rows = [
        (label, number_cell(float(stats.iqm(scores))), interval_cell(*interval(scores, stats.iqm)))
        for label, scores in matrices.items()
    ]
    print(f"over all {tasks} environments:")
    print(text_table(Table(("group", "iqm", "95 % interval"), rows)))
    pairs = []
    for (first, x), (second, y) in itertools.combinations(matrices.items(), 2):
        chance = stats.probability_of_improvement(x, y)
        bounds = interval((x, y), stats.probability_of_improvement)
        pairs.append((first, second, number_cell(chance), interval_cell(*bounds)))
    if pairs:
        head = ("a run of", "beats one of", "probability", "95 % interval")
        print(text_table(Table(head, pairs)))


def _mean_of(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# Numbers -----------------------------------------------------------------------------------------


def plot_numbers(
    environments: Sequence[EnvironmentCurves], overlays: Overlays, config: PlotConfig
) -> dict[str, Any]:
    """Return the content of the JSON file: all numbers of the figure; NaN becomes null."""
    found = {}
    for environment in environments:
        common_steps = environment.common_steps
        found[environment.env_id] = {
            "bin_steps": environment.bin_steps,
            "common_steps": common_steps,
            "groups": {
                group.label: group_numbers(group, common_steps, config.statistic)
                for group in environment.groups
            },
            "published": {
                name: {"steps": curves.middles, "mean": curves.mean}
                for name, curves in overlays.get(environment.env_id, {}).items()
            },
        }
    about = {"metric": config.metric, "statistic": config.statistic, "interval": stats.LEVEL}
    return _for_json({**about, "environments": found})


def group_numbers(group: CurveGroup, limit: float, statistic: str) -> dict[str, Any]:
    """Return a group's numbers: its runs, their final values, and its two bands."""
    function = AGGREGATES[statistic]
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


def _for_json(value: Any) -> Any:
    """Return a value in JSON's types; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {name: _for_json(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _for_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_for_json(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
