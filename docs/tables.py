"""Write the generated tables of the documentation between their markers.

    python docs/tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a stale one fails a test.
"""

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from baselines.config import MappoConfig, PlasticityConfig, PpoConfig
from baselines.profiles import ATARI, CONTINUOUS, OTHER, PROFILES
from smacv2.layout import Layout
from smacv2.options import RULES, Options
from smacv2.rules_modes import DEFECTS
from smacv2.scenario import load_scenario, scenario_names

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/environments.md", "docs/baselines.md", "docs/plasticity.md")
FILES = tuple(ROOT / page for page in PAGES)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Bring every table up to date."""
    for path in FILES:
        path.write_text(updated(path.read_text()))


def updated(text: str) -> str:
    """Return a page with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def options_table() -> str:
    """Return name, default and meaning of every option."""
    meanings = field_docs(Options)
    rows = [
        (f"`{field.name}`", f"`{field.default!r}`", meanings[field.name])
        for field in dataclasses.fields(Options)
    ]
    return table(("option", "default", "meaning"), rows)


def field_docs(cls: type) -> dict[str, str]:
    """Return the string that stands below each field of a dataclass."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return docs


def flags_table(config_class: type) -> str:
    """Return the flags that a command's dataclass itself defines, with defaults and meanings."""
    meanings = field_docs(config_class)
    fields = [field for field in dataclasses.fields(config_class) if field.name in meanings]
    shown = {"True": "on", "False": "off", "": "none", "()": "none"}
    rows = [
        (
            f"`--{field.name.replace('_', '-')}`",
            shown.get(str(field.default), field.default),
            meanings[field.name],
        )
        for field in fields
    ]
    return table(("flag", "default", "meaning"), rows)


def profiles_table() -> str:
    """Return what each profile of PPO sets differently for each kind of environment."""
    kinds = {CONTINUOUS: "MuJoCo", ATARI: "Atari", OTHER: "other"}
    columns = [(profile, kind) for profile in PROFILES for kind in kinds]
    defaults = {field.name: field.default for field in dataclasses.fields(PpoConfig)}
    names = [
        name
        for name in defaults
        if any(name in PROFILES[profile][kind] for profile, kind in columns)
    ]
    rows = []
    for name in names:
        values = [PROFILES[profile][kind].get(name, defaults[name]) for profile, kind in columns]
        rows.append((f"`{name}`", *(str(value).lower() for value in values)))
    header = [f"{profile}, {kinds[kind]}" for profile, kind in columns]
    return table(("", *header), rows)


def results_table(experiment: str, columns: dict[str, tuple[str, str]]) -> str:
    """Return measured numbers of each cell, seed by seed, from benchmarks/results.

    Args:
        experiment: of benchmarks/ppo_experiments.py.
        columns: heading to the name of the number and its format.
    """
    path = ROOT / "benchmarks" / "results" / f"ppo_{experiment}.json"
    rows = []
    for cell, content in json.loads(path.read_text()).items():
        runs = content["runs"].values()
        texts = [
            " / ".join(format(one[name], form) if name in one else "–" for one in runs)
            for name, form in columns.values()
        ]
        rows.append((f"`{cell}`", *texts))
    return table(("", *columns), rows)


STRESS_COLUMNS = {
    "return": ("return", ".0f"),
    "norm": ("norm", ".1f"),
    "KL": ("kl", ".3f"),
    "excess ratio": ("excess", ".2f"),
    "rank": ("rank", ".0f"),
    "dead": ("dead", ".0f"),
    "critic norm": ("critic_norm", ".0f"),
    "capacity loss, actor": ("capacity_actor", ".3f"),
    "capacity loss, critic": ("capacity_critic", ".3g"),
}
MAPPO_COLUMNS = {
    "win rate": ("win_rate", ".1%"),
    "norm": ("norm", ".1f"),
    "KL": ("kl", ".4f"),
    "excess ratio": ("excess", ".2f"),
    "rank": ("rank", ".0f"),
    "dead": ("dead", ".0f"),
    "critic norm": ("critic_norm", ".1f"),
    "critic rank": ("critic_rank", ".0f"),
}
SCORE_COLUMNS = {"return": ("return", ".0f"), "steps": ("steps", ",")}


def rules_table() -> str:
    """Return each of upstream's defects and the modes that keep it."""
    rows = [
        (
            name,
            defect.summary,
            *("kept" if mode in defect.kept_by else "repaired" for mode in RULES),
        )
        for name, defect in DEFECTS.items()
    ]
    return table(("", "what upstream does", *(f"`{mode}`" for mode in RULES)), rows)


def scenarios_table() -> str:
    """Return the sizes of the 15 benchmark scenarios; the races differ in shields only."""
    rows = []
    for name in scenario_names():
        if "conic" in name or "epo" in name:
            continue
        scenario = load_scenario(name)
        layout = Layout.of(scenario)
        sides = (scenario.num_agents, scenario.num_enemies)
        rows.append((*sides, f"`{name}`", layout.obs_size, layout.state_size, layout.num_actions))
    header = ("allies", "enemies", "scenario", "observation", "state", "actions")
    return table(header, sorted(rows))


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "mappo": lambda: flags_table(MappoConfig),
    "mappo_results": lambda: results_table("mappo", MAPPO_COLUMNS),
    "options": options_table,
    "plasticity": lambda: flags_table(PlasticityConfig),
    "ppo": lambda: flags_table(PpoConfig),
    "profiles": profiles_table,
    "rules": rules_table,
    "scenarios": scenarios_table,
    "scores": lambda: results_table("scores", SCORE_COLUMNS),
    "stress": lambda: results_table("stress", STRESS_COLUMNS),
}

if __name__ == "__main__":
    main()
