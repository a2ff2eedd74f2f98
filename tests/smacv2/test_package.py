"""Promises of importing and installing the package."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata

import pytest

import smacv2

HEAVY = ("torch", "numba", "pysc2", "google.protobuf", "tensorboard")


@pytest.mark.parametrize("module", ["smacv2.scenario", "smacv2.layout"])
def test_reading_scenarios_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_the_scenario_module_needs_the_standard_library_only():
    modules = ("smacv2.schema", "smacv2.options", "smacv2.scenario", "smacv2.layout")
    code = f"""
import sys, types
package = types.ModuleType("smacv2")
package.__path__ = {list(smacv2.__path__)}
sys.modules["smacv2"] = package
import {", ".join(modules)}
loaded = {{name.partition(".")[0] for name in sys.modules}} - {{"smacv2", "__main__"}}
assert "numpy" not in loaded and "gymnasium" not in loaded
from smacv2.scenario import scenario_names
print(len(scenario_names()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "39"


def test_the_installed_version_is_the_packages():
    try:
        installed = metadata("smacv2-suite")
    except PackageNotFoundError:
        pytest.skip("runs from a checkout that is not installed (make install)")
    assert installed["Version"] == smacv2.__version__


def test_a_battle_of_ten_against_ten_takes_less_than_40_kilobytes() -> None:
    import gymnasium

    envs = gymnasium.make_vec("smacv2/terran_10_vs_10-v0", num_envs=2)
    assert sum(array.nbytes for array in envs.unwrapped.checkpoint().values()) / 2 < 40_000
