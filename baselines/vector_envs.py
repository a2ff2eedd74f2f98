"""Gymnasium ids to vector environments; errors name the id or option and its nearest match."""

import importlib
import re
import tomllib
from collections.abc import Iterable
from typing import Any

import gymnasium

from baselines.errors import UsageError, expected

# What a wrong option, a missing driver or too many battles raise while an environment is made.
FAILURES = (
    *(TypeError, ValueError, KeyError, RuntimeError, ImportError, MemoryError, OverflowError),
    gymnasium.error.Error,
)
NOT_OPTIONS = ("id", "num_envs", "vector_kwargs", "wrappers")  # keywords of gymnasium.make_vec


def make_env(env_id: str, num_envs: int, options: Iterable[str] = ()) -> Any:
    """Make a vector environment that keeps the contract of docs/baselines.md.

    Args:
        env_id: Gymnasium id, version optional; `module:id` imports `module` first.
        num_envs: battles in it.
        options: `key=value` texts, passed to the environment as keywords.

    Raises:
        UsageError: the id, an option or its value is not known, or the machine cannot make it.
    """
    name, keywords = resolve_id(env_id), parse_options(options)
    try:
        env = gymnasium.make_vec(name, num_envs=num_envs, **keywords)
    except FAILURES as error:
        given = [f"--num-envs {num_envs}", *(f"--env-option {option}" for option in options)]
        raise UsageError(f"{name} {' '.join(given)}: {first_line(error)}") from error
    lacking = [name for name in ("num_agents", "state_size") if not hasattr(env.unwrapped, name)]
    if lacking:
        env.close()
        raise UsageError(
            f"{name} is not a multi-agent battle: it has no {' and no '.join(lacking)}"
        )
    return env


def resolve_id(env_id: str) -> str:
    """Return the registered id that `env_id` names, its highest version where it names none."""
    importlib.import_module("smacv2")
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"--env {env_id}: cannot import {module!r}: {error}") from error
    if name in gymnasium.registry:
        return name
    versions = [
        known for known in gymnasium.registry if re.fullmatch(re.escape(name) + r"-v\d+", known)
    ]
    if versions:
        return max(versions, key=lambda known: int(known.rpartition("-v")[2]))
    battles = [known for known in gymnasium.registry if known.startswith("smacv2/")]
    raise UsageError(expected("environment", env_id, battles))


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return `key=value` texts as a dictionary; values are TOML, bare words are strings."""
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--env-option {option}: it must look like key=value")
        if key in NOT_OPTIONS:
            hint = "; use --num-envs" if key == "num_envs" else ""
            raise UsageError(f"--env-option {option}: {key} is no environment option{hint}")
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
