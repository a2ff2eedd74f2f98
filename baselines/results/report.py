"""`baselines plasticity`: figures and early warnings of runs, as a single self-contained page.

From the command to the axes: `main` makes a section per environment, `make_section` draws each of
`REPORT_FIGURES`, and their functions in figures.py fill the axes.
"""

import dataclasses
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.config import PlasticityReportConfig
from baselines.results import figures
from baselines.results.drawing import house_style, rendered, require_matplotlib
from baselines.results.early_warnings import HOLD, RULES, START, WarningsByGroup, find_warnings
from baselines.results.files import file_name, write_files
from baselines.results.groups import (
    Groups,
    by_env,
    damage_notes,
    differing,
    group_runs,
    left_out_note,
    read_runs,
    setting_text,
    settings,
)
from baselines.results.metrics import EXCESS, NORM, RANK, RETURN
from baselines.results.series import RunSeries
from baselines.results.tables import Table, counted, html_table, number_cell, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
class ReportFigure:
    """A figure of each environment's section."""

    name: str  # in the names of its files
    title: str
    draw: Callable[[Groups, WarningsByGroup], "Figure | None"]
    caption: str


REPORT_FIGURES = (
    ReportFigure(
        "curves",
        "Over training",
        figures.draw_curves,
        "Lines are means over the runs of a group, bands their minimum and maximum. All metrics"
        " except the capacity loss are smoothed (weight 0.05 for a new value). Triangles mark early"
        " warnings.",
    ),
    ReportFigure(
        "trust_region",
        "Trust region against representation",
        lambda groups, _: figures.draw_trust_region(groups),
        "Means over windows of 1 % of training. Grey cells count all windows; points are the 20"
        " windows of each run with the lowest ratios. The line, Kendall's τ and Spearman's ρ are"
        " those of the points.",
    ),
    ReportFigure(
        "boxes",
        "Final values",
        lambda groups, _: figures.draw_boxes(groups),
        "A point is the mean over a run's last 5 %; boxes span the quartiles.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Section:
    """The part of the page about one environment."""

    env_id: str
    groups: Groups
    warnings: WarningsByGroup
    body: str  # HTML


def main(config: PlasticityReportConfig) -> int:
    """Write the report, print its warnings and its path; return the exit status."""
    require_matplotlib()
    out = Path(config.out)
    runs = read_runs(config.runs)
    sections = [make_section(env_id, members, out) for env_id, members in by_env(runs).items()]
    notes = report_notes(runs)
    write_files(out / "index", {".html": page_text(runs, sections, notes).encode()})
    for section in sections:
        print(f"{section.env_id}: {counted(sum(map(len, section.groups.values())), 'run')}")
        print(text_table(warning_table(section.warnings)) or "no early warnings")
    for note in notes:
        print(note)
    print(f"report: {out / 'index.html'}")
    return 0


def report_notes(runs: Sequence[RunSeries]) -> list[str]:
    """Return a line per reason for which runs could not be reported in full."""
    empty = [run for run in runs if not run.last_step]
    blind = [run for run in runs if run.last_step and not run.measured]
    short = [
        run
        for run in runs
        if run.measured and sum(run[NORM].steps >= START * run.total_steps) < HOLD
    ]
    reasons = {
        "nothing logged yet": empty,
        "no representation was measured; train with --probe 10": blind,
        f"fewer than {HOLD} measurements after the first tenth, too few for warnings": short,
    }
    found = [left_out_note(some, runs, reason) for reason, some in reasons.items() if some]
    return damage_notes(runs) + found


# Sections ----------------------------------------------------------------------------------------


def make_section(env_id: str, runs: Sequence[RunSeries], out: Path) -> Section:
    """Find the warnings of one environment's runs and draw their figures.

    Raises:
        UsageError: the figures cannot be written.
    """
    groups = group_runs(runs)
    warnings = {
        label: [warning for run in members for warning in find_warnings(run)]
        for label, members in groups.items()
    }
    table = warning_table(warnings)
    body = [
        f"<h2>{html.escape(env_id)}</h2>",
        "<h3>Early warnings</h3>",
        html_table(table) if table.rows else "<p>None.</p>",
    ]
    for figure in REPORT_FIGURES:
        base = out / f"{file_name(env_id)}_{figure.name}"
        svg = write_figure(figure, groups, warnings, base)
        if svg:
            body.append(f"<h3>{figure.title}</h3>\n<figure>{svg}")
            body.append(f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>")
    body += ["<h3>Runs</h3>", html_table(run_table(groups))]
    if len(groups) > 1:
        body += ["<h3>Settings that differ</h3>", html_table(settings_table(groups))]
    return Section(env_id, groups, warnings, "\n".join(body))


def write_figure(
    figure: ReportFigure, groups: Groups, warnings: WarningsByGroup, base: Path
) -> str:
    """Write a figure as SVG and PNG; return its SVG element, empty if there is nothing to draw.

    Raises:
        UsageError: the figure cannot be written.
    """
    with house_style(salt=base.name):
        drawn = figure.draw(groups, warnings)
        if drawn is None:
            return ""
        contents = rendered(drawn)
    write_files(base, contents)
    text = contents[".svg"].decode()
    element = text[text.index("<svg") :]
    label = html.escape(figure.title)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def warning_table(warnings: WarningsByGroup) -> Table:
    """Return the warnings by group, run and time."""
    head = ("group", "seed", "warning", "step", "from", "to", "at the end", "still holds")
    rows = [
        (
            *(label, str(warning.run.seed), warning.kind, f"{warning.step:,}"),
            *(f"{value:.3g}" for value in (warning.before, warning.value, warning.last)),
            "yes" if warning.lasts else "no",
        )
        for label, of_group in warnings.items()
        for warning in of_group
    ]
    return Table(head, rows)


def run_table(groups: Groups) -> Table:
    """Return the steps and the final values of each run."""
    head = ("group", "seed", "steps", "of", "measurements", "return", "rank", "norm")
    head += ("excess ratio", "folder")
    metrics = (RETURN, RANK, NORM, EXCESS)
    rows = [
        (
            *(label, str(run.seed), f"{run.last_step:,}", f"{run.total_steps:,}"),
            str(len(run[NORM])),
            *(number_cell(figures.final_value(run, metric)) for metric in metrics),
            str(run.path),
        )
        for label, runs in groups.items()
        for run in runs
    ]
    return Table(head, rows)


def settings_table(groups: Groups) -> Table:
    """Return all settings in which groups differ, one row per group."""
    by_label = {label: settings(runs[0]) for label, runs in groups.items()}
    fields = differing(list(by_label.values()))
    rows = [
        [label, *(setting_text(own[name]) if name in own else "–" for name in fields)]
        for label, own in by_label.items()
    ]
    return Table(["group", *fields], rows)


# The page ----------------------------------------------------------------------------------------


def page_text(runs: Sequence[RunSeries], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Return the page as HTML."""
    body = ["<h1>Plasticity report</h1>", f"<p>{html.escape(summary_line(runs, sections))}</p>"]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    body += [section.body for section in sections]
    body.append(definitions())
    return PAGE.format(body="\n".join(body))


def summary_line(runs: Sequence[RunSeries], sections: Sequence[Section]) -> str:
    """Return a sentence with the numbers of runs, of groups and of runs that have warnings."""
    groups = sum(len(section.groups) for section in sections)
    warned = {
        warning.run.path
        for section in sections
        for of_group in section.warnings.values()
        for warning in of_group
    }
    return (
        f"{counted(len(runs), 'run')} in {counted(groups, 'group')} on"
        f" {', '.join(section.env_id for section in sections)};"
        f" early warnings in {len(warned)} of them."
    )


def definitions() -> str:
    """Return the meaning of each warning, as HTML."""
    terms = "\n".join(
        f"<dt>{kind}</dt><dd>{html.escape(' '.join((rule.__doc__ or '').split()))}</dd>"
        for kind, _, rule in RULES
    )
    return (
        "<h2>Meaning of the warnings</h2>\n<p>Each rule reads the running median of one metric (20"
        f" measurements), from the end of the first {START:.0%} of training. It fires when its"
        f" condition has held at {HOLD} measurements in a row; the step is that of the first."
        " “From” is the reference value. A warning is a rule of thumb: most runs with a warning"
        f" keep learning for long.</p>\n<dl>\n{terms}\n</dl>"
    )
