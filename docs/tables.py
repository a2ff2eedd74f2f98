"""Write the generated tables of the documentation between their markers.

    python docs/tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a stale one fails a test.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from smacv2.layout import Layout
from smacv2.options import RULES, Options
from smacv2.rules_modes import DEFECTS
from smacv2.scenario import load_scenario, scenario_names

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", ROOT / "docs" / "environments.md")
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
    "options": options_table,
    "rules": rules_table,
    "scenarios": scenarios_table,
}

if __name__ == "__main__":
    main()
