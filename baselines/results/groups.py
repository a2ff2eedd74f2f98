"""Finished runs by environment and by settings: which runs form a group, and its label.

Runs that differ only in their seed form a group. A group is labelled by the settings in which it
differs from the other groups. Returns of different environments are not comparable, so reports and
plots have a section per environment.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.config import with_pfo_as_intervention
from baselines.errors import UsageError, expected
from baselines.results.metrics import REPORTED
from baselines.results.series import RunSeries, read_run
from baselines.results.tables import counted
from baselines.runs.records import find_runs, read_record

IGNORED = {  # settings that do not change what a run learns
    *("seed", "seeds", "resume", "runs_dir", "device", "num_threads"),
    *("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints", "snapshots"),
}
LABEL_FIELDS = 4  # settings that a label names at most
Groups = Mapping[str, Sequence[RunSeries]]  # runs by the label of their group


# Reading -----------------------------------------------------------------------------------------


def read_runs(paths: Sequence[str], metrics: Collection[str] = REPORTED) -> list[RunSeries]:
    """Return the runs in run folders and in folders of runs, each once.

    Args:
        paths: the folders.
        metrics: names of the metrics to read, see `read_run`.

    Raises:
        UsageError: a path is neither, or no run has logged anything.
    """
    folders = {}
    for path in paths:
        for folder in find_runs(Path(path)):
            folders.setdefault(folder.resolve(), folder)
    runs = [read_run(folder, read_record(folder), metrics) for folder in folders.values()]
    for run in runs:
        lacking = {"seed", "total_steps"} - set(run.config)
        if lacking:
            raise UsageError(f"{run.path}: its config.json has no {' and no '.join(lacking)}")
    if not any(run.last_step for run in runs):
        raise UsageError(f"{', '.join(paths)}: nothing logged yet (no line in metrics.jsonl)")
    return runs


def damage_notes(runs: Sequence[RunSeries]) -> list[str]:
    """Return a line per run that has unreadable metrics."""
    return [
        f"{run.path / 'metrics.jsonl'}: {counted(run.damaged, 'damaged line')} left out"
        for run in runs
        if run.damaged
    ]


def left_out_note(left_out: Sequence[RunSeries], runs: Sequence[RunSeries], reason: str) -> str:
    """Return the line that names the runs that were left out, and the reason."""
    paths = ", ".join(str(run.path) for run in left_out)
    return f"{counted(len(left_out), 'run')} of {len(runs)}: {reason}: {paths}"


# Grouping ----------------------------------------------------------------------------------------


def by_env(runs: Sequence[RunSeries]) -> dict[str, list[RunSeries]]:
    """Return runs by the id of their environment."""
    environments: dict[str, list[RunSeries]] = {}
    for run in runs:
        environments.setdefault(run.record["environment"]["id"], []).append(run)
    return environments


def group_runs(runs: Sequence[RunSeries]) -> dict[str, list[RunSeries]]:
    """Return runs by the label of their group, in the order given, each group by seed."""
    groups = [sorted(group, key=lambda run: run.seed) for group in _alike(runs, settings)]
    return dict(zip(labels([settings(group[0]) for group in groups]), groups, strict=True))


def group_across_envs(
    runs: Sequence[RunSeries], fields: Sequence[str] = ()
) -> dict[str, list[RunSeries]]:
    """Return runs by algorithm and, if they differ, by settings; a group may span environments.

    Args:
        runs: in any order.
        fields: settings that labels name; without any, those that differ.

    Raises:
        UsageError: no run has a setting of `fields`.
    """
    known = set().union(*map(settings, runs))
    for field in fields:
        if field not in known:
            raise UsageError(expected("setting", field, known))
    found = {}
    for algorithm in dict.fromkeys(run.record["algorithm"] for run in runs):
        groups = _alike([r for r in runs if r.record["algorithm"] == algorithm], _without_env)
        names = labels([_without_env(group[0]) for group in groups], fields)
        for name, group in zip(names, groups, strict=True):
            found[algorithm if name == algorithm else f"{algorithm}, {name}"] = group
    return found


def _alike(
    runs: Sequence[RunSeries], key: Callable[[RunSeries], dict[str, Any]]
) -> list[list[RunSeries]]:
    """Return the runs in lists of those that have the same key."""
    groups: dict[str, list[RunSeries]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def settings(run: RunSeries) -> dict[str, Any]:
    """Return the algorithm and the settings that runs of a group share, of older runs too."""
    fields = with_pfo_as_intervention(run.config)
    kept = {name: value for name, value in fields.items() if name not in IGNORED}
    return {"algorithm": run.record["algorithm"], **kept}


def _without_env(run: RunSeries) -> dict[str, Any]:
    return {name: value for name, value in settings(run).items() if name != "env"}


# Labels ------------------------------------------------------------------------------------------


def differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings in which groups that have them differ, in the order of the config."""
    fields = dict.fromkeys(name for group in groups for name in group)
    values = {name: [group[name] for group in groups if name in group] for name in fields}
    return [name for name, given in values.items() if any(value != given[0] for value in given)]


def labels(groups: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> list[str]:
    """Return a label per group: the settings in which it differs, or its algorithm.

    Args:
        groups: the settings of each group.
        fields: settings to name instead, whether they differ or not.
    """
    fields = fields or differing(groups)
    found = []
    for group in groups:
        own = [name for name in fields if name in group]
        parts = [f"{name}={setting_text(group[name])}" for name in own[:LABEL_FIELDS]]
        more = [f"+{len(own) - LABEL_FIELDS} more"] if len(own) > LABEL_FIELDS else []
        found.append(", ".join(parts + more) or str(group["algorithm"]))
    seen: Counter[str] = Counter()
    for index, label in enumerate(found):  # shortened labels may be equal
        seen[label] += 1
        found[index] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    return found


def setting_text(value: Any) -> str:
    """Return a setting as a user would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
