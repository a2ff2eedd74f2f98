"""Gymnasium ids and environment options, as given on the command line.

Errors name the id or the option, and its nearest match.
"""

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterable
from typing import Any

import gymnasium

from baselines.errors import UsageError, expected

# Errors of a wrong option, a missing driver or too many battles while an environment is made.
FAILURES = (
    *(TypeError, ValueError, KeyError, RuntimeError, ImportError, MemoryError, OverflowError),
    gymnasium.error.Error,
)
NOT_OPTIONS = ("id", "num_envs", "vector_kwargs", "wrappers")  # keywords of gymnasium.make_vec

EXTRAS = {"ale_py": "atari", "mujoco": "mujoco", "imageio": "mujoco", "envpool": "envpool"}


def advice(error: BaseException) -> str:
    """Return an error's first line, or the command that installs a missing package."""
    text = first_line(error)
    for package, extra in EXTRAS.items():
        if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
            if package in text.lower().replace("-", "_") and not is_installed(package):
                return f"{package} is not installed; pip install 'smacv2-suite[{extra}]'"
    return text


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # an entry of sys.modules without a specification
        return False


def resolve_id(env_id: str) -> str:
    """Return the registered id that `env_id` names, the highest version if it names none."""
    importlib.import_module("smacv2")
    module, _, name = env_id.rpartition(":")
    module = "ale_py" if name.startswith("ALE/") else module
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            reason = advice(error) if module in EXTRAS else error
            raise UsageError(f"--env {env_id}: cannot import {module!r}: {reason}") from error
    if name in gymnasium.registry:
        return name
    versions = [
        known for known in gymnasium.registry if re.fullmatch(re.escape(name) + r"-v\d+", known)
    ]
    if versions:
        return max(versions, key=lambda known: int(known.rpartition("-v")[2]))
    family = "smacv2/" if name.startswith("smacv2") else "ALE/" if name.startswith("ALE/") else ""
    known = [known for known in gymnasium.registry if known.startswith(family)]
    raise UsageError(expected("environment", env_id, known))


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return `key=value` texts as a dictionary; values are TOML, bare words are strings."""
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--env-option {option}: it must look like key=value")
        if key in NOT_OPTIONS:
            hint = "; use --num-envs" if key == "num_envs" else ""
            raise UsageError(f"--env-option {option}: {key} is not an environment option{hint}")
        parsed[key] = _parse_value(value)
    return parsed


def _parse_value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
