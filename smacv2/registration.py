"""Gymnasium ids for the scenarios in ``maps/`` and for a user's own TOML files."""

from pathlib import Path

import gymnasium

from smacv2.scenario import ScenarioError, load_scenario, scenario_names

NAMESPACE = "smacv2"
ID_VERSION = 0
"""Increased when a change of rules or rewards makes results incomparable with older ones."""


def environment_id(scenario: str) -> str:
    """Return the Gymnasium id of a scenario, such as ``smacv2/terran_5_vs_5-v0``."""
    return f"{NAMESPACE}/{scenario}-v{ID_VERSION}"


def register_scenarios() -> None:
    """Register every built-in scenario; this lists a folder, but reads no file."""
    for name in scenario_names():
        _register(name, name)


def register_scenario(path: str | Path) -> str:
    """Register a user's own scenario file and return its Gymnasium id.

    Raises:
        ScenarioError: The file has a mistake (the message names file, key and allowed values), or
            its name belongs to another scenario.
    """
    source = str(Path(path).resolve())
    scenario = load_scenario(source)
    identifier = environment_id(scenario.name)
    if identifier in gymnasium.registry:
        known = gymnasium.registry[identifier].kwargs["scenario"]
        if known != source:
            raise ScenarioError(
                f'{path}: the id "{identifier}" belongs to {known} already; rename the file'
            )
    return _register(scenario.name, source)


def _register(name: str, source: str) -> str:
    identifier = environment_id(name)
    if identifier not in gymnasium.registry:
        gymnasium.register(
            identifier,
            entry_point="smacv2.gymnasium_env:SMACv2Env",
            vector_entry_point="smacv2.gymnasium_env:SMACv2VectorEnv",
            kwargs={"scenario": source},
        )
    return identifier
