"""docs/baselines.md keeps up with the code."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_options_equals_the_dataclass():
    module = ast.parse((ROOT / "baselines" / "config.py").read_text())
    config = next(node for node in module.body if getattr(node, "name", "") == "MappoConfig")
    rows = []
    for field, text in zip(config.body, config.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign):
            value = ast.literal_eval(field.value)
            shown = {"True": "true", "False": "false", "": "none", "()": "none"}
            default = shown.get(str(value), str(value))
            rows.append(f"| `{field.target.id}` | {default} | {text.value.value} |")
    table = "| option | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
    assert table in (ROOT / "docs" / "baselines.md").read_text()
