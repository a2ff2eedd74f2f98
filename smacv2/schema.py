"""Read a TOML table into a frozen dataclass; every error names file, key, value and remedy.

The dataclass is the schema: a field's annotation is the type of its key, a default makes the key
optional, and `entry(...)` adds the key's name in the file and the values it may take. A class may
also define `problems()`, which yields `(field, message)` for mistakes that span several keys.
"""

import dataclasses
import difflib
import json
import numbers
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, TypeVar

T = TypeVar("T")
HUGE = sys.float_info.max  # bounds that exclude infinity and NaN


@dataclasses.dataclass(frozen=True)
class Entry:
    """The key of a field in the file and its range, which an annotation cannot express."""

    key: str | None = None
    low: float = -HUGE
    high: float = HUGE
    above: float = -HUGE
    choices: tuple[str, ...] = ()


def entry(
    key: str | None = None,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    low: float = -HUGE,
    high: float = HUGE,
    above: float = -HUGE,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a dataclass field with an `Entry`.

    Args:
        key: The name in the TOML file, if it differs from the field's (to add the unit).
        default: The value of an absent key; without one the key is required.
        default_factory: Makes the default if it is mutable; the dataclass's hash then leaves the
            field out.
        low: Smallest allowed number; also applies to each number of a list.
        high: Largest allowed number.
        above: A number that the value must exceed.
        choices: The allowed strings.
    """
    metadata = {"entry": Entry(key, low, high, above, choices)}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a file, with which error messages start, and the error to raise."""

    file: str
    error: type[ValueError]
    path: str = ""

    def at(self, key: str | int) -> "Place":
        """Return the place of `key` (a name, or an index into a list) below this one."""
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return dataclasses.replace(self, path=f"{self.path}{step}")

    @property
    def table(self) -> str:
        """Name of the table at this place, for messages."""
        return f"[{self.path}]" if self.path else self.file

    def fail(self, message: str) -> NoReturn:
        """Raise this place's error with the line `file: path message`."""
        path = f"{self.path} " if self.path else ""
        raise self.error(f"{self.file}: {path}{message}")


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest allowed name, or an empty string."""
    nearest = difflib.get_close_matches(str(given), list(allowed), n=1)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def read(cls: type[T], table: object, place: Place, **given: Any) -> T:
    """Build `cls` from the keys of a table.

    Args:
        cls: A frozen dataclass.
        table: The parsed TOML table.
        place: The table's place in a file.
        **given: Fields that the caller supplies; they are not keys of the table.
    """
    if isinstance(table, cls):
        return table
    if not isinstance(table, Mapping):
        place.fail(f"must be a table, not {_show(table)}")
    fields = {_key(field): field for field in _fields(cls) if field.name not in given}
    for key in table:
        if key not in fields:
            _unknown_key(key, fields, place)
    values = dict(given)
    for key, field in fields.items():
        if key in table:
            values[field.name] = _value(table[key], field.type, _entry(field), place.at(key))
        elif _is_required(field):
            place.at(key).fail(f"is missing; it must be {_describe(field.type)}")
    result = cls(**values)
    for name, message in getattr(result, "problems", tuple)():
        keys = {field.name: key for key, field in fields.items()}
        place.at(keys[name]).fail(message)
    return result


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(cls) if field.init)


def _entry(field: dataclasses.Field[Any]) -> Entry:
    found: Entry = field.metadata.get("entry", Entry())
    return found


def _key(field: dataclasses.Field[Any]) -> str:
    return _entry(field).key or field.name


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _unknown_key(key: str, allowed: Iterable[str], place: Place) -> NoReturn:
    names = list(allowed)
    place.at(key).fail(
        f"is not a key of {place.table}; allowed: {', '.join(names)}{did_you_mean(key, names)}"
    )


def _value(value: Any, kind: Any, entry: Entry, place: Place) -> Any:
    """Check and convert one value against an annotation."""
    origin = typing.get_origin(kind)
    if kind in _SCALARS:
        return _scalar(value, kind, entry, place)
    if origin is Literal:
        return _choice(value, typing.get_args(kind), place)
    if origin in (typing.Union, types.UnionType):
        return _variant(value, kind, place)
    if origin is tuple:
        return _tuple(value, kind, entry, place)
    if origin is Mapping:
        return _mapping(value, kind, entry, place)
    return read(kind, value, place)


_SCALARS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a string"),
}


def _scalar(value: Any, kind: type, entry: Entry, place: Place) -> Any:
    accepted, description = _SCALARS[kind]
    is_bool = isinstance(value, bool)
    if not isinstance(value, accepted) or is_bool is not (kind is bool):
        place.fail(f"must be {description}, not {_show(value)}")
    if kind in (int, float):
        _check_range(value, entry, place)
    if entry.choices:
        _choice(value, entry.choices, place)
    return kind(value)


def _check_range(value: float, entry: Entry, place: Place) -> None:
    bounds = []
    if entry.above > -HUGE:
        bounds.append(f"above {entry.above:g}")
    if entry.low > -HUGE:
        bounds.append(f"at least {entry.low:g}")
    if entry.high < HUGE:
        bounds.append(f"at most {entry.high:g}")
    if not (entry.low <= value <= entry.high and value > entry.above):
        bounds = bounds if -HUGE <= value <= HUGE else ["finite"]
        place.fail(f"must be {' and '.join(bounds)}, not {_show(value)}")


def _choice(value: Any, choices: tuple[str, ...], place: Place) -> Any:
    if value not in choices:
        allowed = ", ".join(choices)
        place.fail(f"must be one of {allowed}, not {_show(value)}{did_you_mean(value, choices)}")
    return value


def _tuple(value: Any, kind: Any, entry: Entry, place: Place) -> tuple[Any, ...]:
    args = typing.get_args(kind)
    is_open = len(args) == 2 and args[1] is Ellipsis
    if not isinstance(value, list | tuple) or not (is_open or len(value) == len(args)):
        place.fail(f"must be {_describe(kind)}, not {_show(value)}")
    kinds = [args[0]] * len(value) if is_open else list(args)
    return tuple(
        _value(item, item_kind, entry, place.at(index))
        for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True))
    )


def _mapping(value: Any, kind: Any, entry: Entry, place: Place) -> dict[str, Any]:
    """Read a table with free values; `entry.choices` names its keys."""
    if not isinstance(value, Mapping):
        place.fail(f"must be a table, not {_show(value)}")
    item_kind = typing.get_args(kind)[1]
    for key in value:
        if entry.choices and key not in entry.choices:
            _unknown_key(key, entry.choices, place)
    bounds = dataclasses.replace(entry, choices=())
    return {key: _value(item, item_kind, bounds, place.at(key)) for key, item in value.items()}


def _variant(value: Any, kind: Any, place: Place) -> Any:
    """Read an optional dataclass, or a union of dataclasses of which the key `kind` chooses one."""
    classes = [cls for cls in typing.get_args(kind) if cls is not types.NoneType]
    if value is None or isinstance(value, tuple(classes)):
        return value
    if not hasattr(classes[0], "kind"):
        return read(classes[0], value, place)
    if not isinstance(value, Mapping):
        place.fail(f"must be a table, not {_show(value)}")
    by_kind = {cls.kind: cls for cls in classes}
    if "kind" not in value:
        place.at("kind").fail(f"is missing; it must be one of {', '.join(by_kind)}")
    return read(by_kind[_choice(value["kind"], tuple(by_kind), place.at("kind"))], value, place)


def _describe(kind: Any) -> str:
    """Return words for the values that an annotation accepts."""
    if kind in _SCALARS:
        return _SCALARS[kind][1]
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        is_open = args[-1] is Ellipsis
        items = _describe(args[0]).removeprefix("a ")
        return f"a list, each item a {items}" if is_open else f"a list of {len(args)}"
    if typing.get_origin(kind) is Literal:
        return " or ".join(f'"{name}"' for name in args)
    return "a table"


def _show(value: Any) -> str:
    return json.dumps(value, default=str)
