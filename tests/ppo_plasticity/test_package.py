"""The public names of the package."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import ppo_plasticity


def test_type_checkers_see_the_names_that_exist_at_run_time():
    tree = ast.parse(Path(ppo_plasticity.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {
        alias.asname: node.module
        for node in imports
        for alias in node.names
        if (node.module or "").startswith("ppo_plasticity.")
    }
    assert sorted(seen) == sorted(ppo_plasticity.__all__)
    for name, module in seen.items():
        assert getattr(ppo_plasticity, name) is getattr(importlib.import_module(module), name)


def test_modules_named_like_their_function_remain_modules():
    for name in ("ranks", "drift"):
        importlib.import_module(f"ppo_plasticity.{name}")
        assert isinstance(getattr(ppo_plasticity, name), ModuleType)
