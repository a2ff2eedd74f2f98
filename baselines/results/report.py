"""`baselines plasticity`: figures and early warnings of runs, in one page that needs nothing else.

Runs that differ in nothing but their seed form a group, and a group is named by the settings in
which it differs from the others. Environments are reported apart, since returns do not compare.
"""

import dataclasses
import html
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.config import PlasticityReportConfig
from baselines.errors import UsageError
from baselines.results import figures
from baselines.results.early_warnings import HOLD, RULES, START, EarlyWarning, find_warnings
from baselines.results.series import EXCESS, METRICS, NORM, RANK, RETURN, RunSeries, read_run
from baselines.runs.records import find_runs, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Settings that do not change what a run learns
IGNORED = {
    *("seed", "seeds", "resume", "runs_dir", "device", "num_threads"),
    *("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints", "snapshots"),
}
LABEL_FIELDS = 4  # settings that a label names at most
Cells = Sequence[str]
Table = tuple[Cells, Sequence[Cells]]  # head, rows
Found = dict[str, list[tuple[RunSeries, EarlyWarning]]]  # warnings by group

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plasticity report</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem;
  border-bottom: 1px solid #ddd; }} h3 {{ font-size: 1.05rem; margin-top: 1.6rem; }}
table {{ border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }}
th, td {{ padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; vertical-align: top; }}
th {{ border-bottom: 1px solid #999; }} td {{ border-bottom: 1px solid #eee; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
figure {{ margin: 1rem 0 2rem; }} figure svg {{ max-width: 100%; height: auto; }}
figcaption, .note {{ color: #555; font-size: 0.9rem; }} dt {{ font-weight: 600; }}
</style></head><body>
{body}
</body></html>
"""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of the report."""

    name: str
    title: str
    draw: Callable[[figures.Groups, Found], "Figure | None"]
    caption: str


DRAWINGS = (
    Drawing(
        "curves",
        "Over training",
        lambda groups, found: figures.draw_curves(groups, marks(found)),
        "Lines are means over the runs of a group, bands their minimum and maximum, all smoothed"
        " (weight 0.05 for a new value) but the capacity loss. Triangles mark early warnings.",
    ),
    Drawing(
        "trust_region",
        "Trust region against representation",
        lambda groups, _: figures.draw_trust_region(groups),
        "Means over windows of 1 % of training. Grey cells count all windows; points are the 20"
        " windows of each run with the lowest ratios; the line, Kendall's τ and Spearman's ρ are"
        " those of the points.",
    ),
    Drawing(
        "boxes",
        "Where the runs ended",
        lambda groups, _: figures.draw_boxes(groups),
        "One point for each run, the mean over its last 5 %; boxes span the quartiles.",
    ),
)


def main(config: PlasticityReportConfig) -> int:
    """Write the report, print its warnings and where it is; return the exit status."""
    figures.require_matplotlib()
    runs = read_runs(config.runs)
    sections = [
        section(environment, some, Path(config.out)) for environment, some in by_env(runs).items()
    ]
    remarks = notes(runs)
    page = write_page(Path(config.out), runs, sections, remarks)
    for environment, groups, found, _ in sections:
        print(f"{environment}: {count(sum(map(len, groups.values())), 'run')}")
        print(text_table(warning_table(found)) or "no early warnings")
    for remark in remarks:
        print(remark)
    print(f"report: {page}")
    return 0


# Reading and grouping ----------------------------------------------------------------------------


def read_runs(paths: Sequence[str], metrics: Collection[str] = METRICS) -> list[RunSeries]:
    """Return the runs that run folders and folders of runs name, each once.

    Args:
        paths: the folders.
        metrics: what to read of them, see `read_run`.

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


def by_env(runs: Sequence[RunSeries]) -> dict[str, list[RunSeries]]:
    """Return runs by the id of their environment."""
    environments: dict[str, list[RunSeries]] = {}
    for run in runs:
        environments.setdefault(run.record["environment"]["id"], []).append(run)
    return environments


def group_runs(runs: Sequence[RunSeries]) -> dict[str, list[RunSeries]]:
    """Return runs by the label of their group, in the order given, each group by seed."""
    groups: dict[str, list[RunSeries]] = {}
    for run in runs:
        groups.setdefault(json.dumps(settings(run), sort_keys=True), []).append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    return dict(zip(labels([settings(group[0]) for group in members]), members, strict=True))


def settings(run: RunSeries) -> dict[str, Any]:
    """Return what makes runs of a group alike: the algorithm and the settings that matter."""
    kept = {name: value for name, value in run.config.items() if name not in IGNORED}
    return {"algorithm": run.record["algorithm"], **kept}


def differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings in which groups that have them differ, in the order of the config."""
    fields = dict.fromkeys(name for group in groups for name in group)
    values = {name: [group[name] for group in groups if name in group] for name in fields}
    return [name for name, given in values.items() if any(one != given[0] for one in given)]


def labels(groups: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> list[str]:
    """Return a label for each group's settings: those in which it differs, or the algorithm.

    With `fields` it names those, whether they differ or not.
    """
    fields = fields or differing(groups)
    found = []
    for group in groups:
        own = [name for name in fields if name in group]
        parts = [f"{name}={shown(group[name])}" for name in own[:LABEL_FIELDS]]
        more = [f"+{len(own) - LABEL_FIELDS} more"] if len(own) > LABEL_FIELDS else []
        found.append(", ".join(parts + more) or str(group["algorithm"]))
    seen: Counter[str] = Counter()
    for index, label in enumerate(found):  # long labels may have lost what sets them apart
        seen[label] += 1
        found[index] = label if seen[label] == 1 else f"{label} ({seen[label]})"
    return found


def shown(value: Any) -> str:
    """Return a setting as it would be typed."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def notes(runs: Sequence[RunSeries]) -> list[str]:
    """Return lines that say what could not be reported, and why."""
    lines = damage(runs)
    empty = [run for run in runs if not run.last_step]
    blind = [run for run in runs if run.last_step and not run.measured]
    short = [
        run
        for run in runs
        if run.measured and sum(run[NORM].steps >= START * run.total_steps) < HOLD
    ]
    for some, why in (
        (empty, "nothing logged yet"),
        (blind, "no representation was measured; train with --probe 10"),
        (short, f"fewer than {HOLD} measurements after the first tenth, too few for warnings"),
    ):
        if some:
            paths = ", ".join(str(run.path) for run in some)
            lines.append(f"{count(len(some), 'run')} of {len(runs)}: {why}: {paths}")
    return lines


def damage(runs: Sequence[RunSeries]) -> list[str]:
    """Return lines that say which runs have metrics that cannot be read."""
    return [
        f"{run.path / 'metrics.jsonl'}: {count(run.damaged, 'damaged line')} left out"
        for run in runs
        if run.damaged
    ]


# Sections ----------------------------------------------------------------------------------------

Section = tuple[str, dict[str, list[RunSeries]], Found, str]  # environment, groups, warnings, HTML


def section(environment: str, runs: Sequence[RunSeries], out: Path) -> Section:
    """Find the warnings of one environment's runs and draw their figures.

    Raises:
        UsageError: the figures cannot be written.
    """
    groups = group_runs(runs)
    found = {
        label: [(run, one) for run in group for one in find_warnings(run)]
        for label, group in groups.items()
    }
    warned = warning_table(found)
    body = [
        f"<h2>{html.escape(environment)}</h2>",
        "<h3>Early warnings</h3>",
        html_table(warned) if warned[1] else "<p>None.</p>",
    ]
    for drawing in DRAWINGS:
        svg = draw(drawing, groups, found, out / f"{slug(environment)}_{drawing.name}")
        if svg:
            body.append(f"<h3>{drawing.title}</h3>\n<figure>{svg}")
            body.append(f"<figcaption>{html.escape(drawing.caption)}</figcaption></figure>")
    body += ["<h3>Runs</h3>", html_table(run_table(groups))]
    if len(groups) > 1:
        body += ["<h3>Settings that differ</h3>", html_table(settings_table(groups))]
    return environment, groups, found, "\n".join(body)


def draw(drawing: Drawing, groups: figures.Groups, found: Found, path: Path) -> str:
    """Write a figure as SVG and PNG; return the SVG element, empty where there is no figure.

    Raises:
        UsageError: it cannot be written.
    """
    with figures.style(salt=path.name):
        figure = drawing.draw(groups, found)
        if figure is None:
            return ""
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        figure.set_layout_engine("none")  # laid out once, which takes most of the time
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.svg").write_text(text.getvalue())
            figure.savefig(path.with_name(f"{path.name}.png"), dpi=130)
        except OSError as error:
            raise UsageError(f"--out {path.parent}: {error}") from error
    element = text.getvalue()[text.getvalue().index("<svg") :]
    name = html.escape(drawing.title)
    return element.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def marks(found: Found) -> dict[str, list[EarlyWarning]]:
    """Return the warnings of each group without their runs."""
    return {label: [warning for _, warning in pairs] for label, pairs in found.items()}


def slug(environment: str) -> str:
    """Return an environment's id as a file name."""
    return re.sub(r"[^\w.-]+", "_", environment)


# Tables ------------------------------------------------------------------------------------------


def warning_table(found: Found) -> Table:
    """Return the warnings by group, run and time."""
    head = ("group", "seed", "warning", "step", "from", "to", "at the end", "still holds")
    rows = [
        (
            *(label, str(run.seed), one.kind, f"{one.step:,}"),
            *(f"{value:.3g}" for value in (one.before, one.value, one.last)),
            "yes" if one.lasts else "no",
        )
        for label, pairs in found.items()
        for run, one in pairs
    ]
    return head, rows


def run_table(groups: figures.Groups) -> Table:
    """Return how far each run came and where it ended."""
    head = ("group", "seed", "steps", "of", "measurements", "return", "rank", "norm")
    head += ("excess ratio", "folder")
    rows = [
        (
            *(label, str(run.seed), f"{run.last_step:,}", f"{run.total_steps:,}"),
            str(len(run[NORM])),
            *(number(figures.final_value(run, metric)) for metric in (RETURN, RANK, NORM, EXCESS)),
            str(run.path),
        )
        for label, runs in groups.items()
        for run in runs
    ]
    return head, rows


def settings_table(groups: figures.Groups) -> Table:
    """Return all settings in which groups differ, one row a group."""
    given = [settings(runs[0]) for runs in groups.values()]
    fields = differing(given)
    rows = [[shown(group[name]) if name in group else "–" for name in fields] for group in given]
    return ["group", *fields], [[label, *row] for label, row in zip(groups, rows, strict=True)]


def number(value: float) -> str:
    """Return a number for a table."""
    return "–" if value != value else f"{value:.4g}"


def count(number: int, noun: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_numeric(cell: str) -> bool:
    """Say whether a cell is set to the right."""
    return bool(re.fullmatch(r"[-+−]?[\d,.]+(e[-+]?\d+)?|–", cell))


def text_table(table: Table) -> str:
    """Return a table in aligned columns, empty where it has no rows."""
    head, rows = table
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if is_numeric(cell) else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def html_table(table: Table) -> str:
    """Return a table as HTML; columns of numbers are set to the right."""
    head, rows = table
    numeric = [all(map(is_numeric, column)) for column in zip(*rows, strict=True)]

    def line(tag: str, row: Cells) -> str:
        cells = zip(row, numeric, strict=True)
        return "<tr>" + "".join(cell(tag, text, right) for text, right in cells) + "</tr>"

    def cell(tag: str, text: str, right: bool) -> str:
        start = f'{tag} class="number"' if right else tag
        return f"<{start}>{html.escape(text)}</{tag}>"

    body = "\n".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', head)}</thead><tbody>\n{body}\n</tbody></table>"


# The page ----------------------------------------------------------------------------------------


def write_page(
    out: Path, runs: Sequence[RunSeries], sections: Sequence[Section], remarks: Sequence[str]
) -> Path:
    """Write index.html; return its path.

    Raises:
        UsageError: it cannot be written.
    """
    body = ["<h1>Plasticity report</h1>", f"<p>{html.escape(overview(runs, sections))}</p>"]
    body += [f'<p class="note">{html.escape(remark)}</p>' for remark in remarks]
    body += [text for *_, text in sections]
    body.append(definitions())
    path = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE.format(body="\n".join(body)))
    except OSError as error:
        raise UsageError(f"--out {out}: {error}") from error
    return path


def overview(runs: Sequence[RunSeries], sections: Sequence[Section]) -> str:
    """Return one sentence on what the report covers and what it found."""
    groups = sum(len(groups) for _, groups, _, _ in sections)
    warned = {run.path for *_, found, _ in sections for pairs in found.values() for run, _ in pairs}
    return (
        f"{count(len(runs), 'run')} in {count(groups, 'group')} on"
        f" {', '.join(environment for environment, *_ in sections)};"
        f" early warnings in {len(warned)} of them."
    )


def definitions() -> str:
    """Return what each warning means, as HTML."""
    terms = "\n".join(
        f"<dt>{kind}</dt><dd>{html.escape(' '.join((rule.__doc__ or '').split()))}</dd>"
        for kind, _, rule in RULES
    )
    return (
        "<h2>What the warnings mean</h2>\n<p>Each rule reads the running median of one metric (20"
        f" measurements), from the end of the first {START:.0%} of training on, and fires once what"
        f" it states has held at {HOLD} measurements in a row; the step is that of the first."
        " “From” is the value it is compared with. A warning is a rule of thumb: most runs that get"
        f" one learn on for long.</p>\n<dl>\n{terms}\n</dl>"
    )
