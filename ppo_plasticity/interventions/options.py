"""Options of interventions: declared with a meaning and bounds, read from `"l2:coef=0.1"`."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ppo_plasticity.interventions.base import Intervention


def option(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    allowed: tuple[str, ...] = (),
) -> Any:
    """Declare a dataclass field that users set by name.

    Args:
        default: the value if the user gives none; its type is the option's type.
        meaning: one line for tables and messages.
        low: the smallest allowed number.
        high: the greatest allowed number.
        allowed: the allowed words, for text.
    """
    bounds = {"meaning": meaning, "low": low, "high": high, "allowed": allowed}
    return dataclasses.field(default=default, metadata=bounds)


def options_of(kind: type[Intervention]) -> dict[str, dataclasses.Field[Any]]:
    """Return the options of an intervention by name."""
    if not dataclasses.is_dataclass(kind):
        return {}
    return {field.name: field for field in dataclasses.fields(kind)}


def parse_with(kinds: Mapping[str, type[Intervention]], text: str) -> Intervention:
    """Return the intervention in a text such as `"redo:every=100,threshold=0.1"`.

    Raises:
        ValueError: a name, an option or a value is wrong; one line names the allowed ones.
    """
    name, _, listed = text.strip().partition(":")
    name = name.strip().replace("-", "_")
    if name not in kinds:
        raise ValueError(
            f"unknown intervention {_quoted(name, kinds)} (allowed: {', '.join(sorted(kinds))})"
        )
    options = options_of(kinds[name])
    values: dict[str, Any] = {}
    for assignment in filter(None, (part.strip() for part in listed.split(","))):
        key, equals, value = (part.strip() for part in assignment.partition("="))
        key = key.replace("-", "_")
        if key not in options or not equals:
            raise ValueError(f"{name}: {_unknown_option(assignment, key, options)}")
        if key in values:
            raise ValueError(f"{name}: option {key!r} is given twice")
        values[key] = _value(f"{name}: {key}", value, options[key])
    return kinds[name](**values)


def describe(kind: type[Intervention]) -> str:
    """Return the options of an intervention with their defaults, `"every=100,threshold=0.1"`."""
    return ",".join(f"{name}={field.default}" for name, field in options_of(kind).items())


def _unknown_option(
    assignment: str, key: str, options: Mapping[str, dataclasses.Field[Any]]
) -> str:
    """Return the error for an assignment that is not `option=value`, with the allowed options."""
    if not options:
        return f"takes no options, got {assignment!r}"
    allowed = ", ".join(f"{name}={field.default}" for name, field in options.items())
    if key in options:
        return f"{key!r} needs a value (allowed, with defaults: {allowed})"
    return f"unknown option {_quoted(key, options)} (allowed, with defaults: {allowed})"


def _value(where: str, text: str, field: dataclasses.Field[Any]) -> Any:
    """Return a value in the type of its option's default.

    Raises:
        ValueError: the value is not of that type or not allowed.
    """
    kind: type[Any] = type(field.default)
    bounds = field.metadata
    if kind is str:
        if text not in bounds["allowed"]:
            hint = f"{_quoted(text, bounds['allowed'])} (allowed: {', '.join(bounds['allowed'])})"
            raise ValueError(f"{where} is {hint}; default {field.default}")
        return text
    low, high = bounds["low"], bounds["high"]
    article = {int: "a whole number", float: "a number"}[kind]
    span = f"from {low:g}" if high is None else f"from {low:g} to {high:g}"
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= (float("inf") if high is None else high) or value == float("inf"):
        raise ValueError(
            f"{where} is {text!r} (allowed: {article} {span}; default {field.default})"
        )
    return value


def _quoted(name: str, allowed: Iterable[str]) -> str:
    """Return the name in quotes, with the nearest match if there is one."""
    nearest = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"{name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else "")
