"""C++ expressions equivalent to Python expressions, with their types.

Integers have 32 bits unless they come through ``int()``, which widens to 64. ``and``, ``or`` and
``not`` give a bool. Expressions of constants are evaluated, so that branches on them vanish.
"""

import ast
import builtins
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from smacv2.engine.compile import Rule, python_function

RANKS = {"bool": 0, "int8": 0, "int32": 1, "int64": 2, "float32": 3, "float64": 4}
"""Scalar types, from the narrowest; int8 is only an element of arrays."""


@dataclass(frozen=True)
class Array:
    """Type of an array parameter.

    Args:
        element: Name of a scalar type.
        extents: Length of each axis; None for one that is only known at run time.
        values: The elements in row-major order, if they are known: reads at constant indices become
            literals.
    """

    element: str
    extents: tuple[int | None, ...]
    values: tuple[int, ...] | None = None

    @classmethod
    def of(cls, element: str, dimensions: int) -> "Array":
        """Return the type of an array whose lengths are only known at run time."""
        return cls(element, (None,) * dimensions)

    @classmethod
    def baked(cls, values: np.ndarray) -> "Array":
        """Return the type of an array with known elements."""
        return cls(values.dtype.name, values.shape, tuple(values.ravel().tolist()))

    @property
    def row(self) -> "Array":
        """Type of the array without its first axis."""
        return Array(self.element, self.extents[1:])


@dataclass(frozen=True)
class Several:
    """Type of the values that a rule returns together."""

    items: tuple[str, ...]


Type = str | Array | Several
"""A string names a scalar type; "void" is the type of a call without a result."""


@dataclass(frozen=True)
class Value:
    """A translated expression."""

    code: str
    type: Type
    constant: int | None = None
    reads: bool = False
    """Whether it reads array elements."""
    writes: bool = False
    """Whether it calls a rule that writes array elements."""


class TranslationError(Exception):
    """A rule uses Python that has no translation; the message names file and line."""


class Unsupported(Exception):
    """A construct that has no translation; the translator of the rule adds file and line."""


def join(first: Type, second: Type) -> Type:
    """Return the narrowest type that holds the values of both types."""
    if first == second:
        return first
    if isinstance(first, Several) and isinstance(second, Several):
        if len(first.items) == len(second.items):
            pairs = zip(first.items, second.items, strict=True)
            return Several(tuple(str(join(a, b)) for a, b in pairs))
    if not (isinstance(first, str) and isinstance(second, str)) or "void" in (first, second):
        raise Unsupported(f"one variable or result of types {first} and {second}")
    low, high = sorted((first, second), key=RANKS.__getitem__)
    return "float64" if high == "float32" and low != "float32" else high


def number(type_: Type) -> str:
    """Return the type in which Python calculates with a scalar: at least int32."""
    if not isinstance(type_, str) or type_ not in RANKS:
        raise Unsupported(f"arithmetic on {type_}")
    return str(join(type_, "int32")) if RANKS[type_] < RANKS["float32"] else type_


def cpp_type(type_: Type) -> str:
    """Return the C++ name of a scalar type or of several values."""
    if isinstance(type_, Several):
        return f"Tuple{len(type_.items)}<{', '.join(type_.items)}>"
    return str(type_)


def literal(value: int, least: str = "int32") -> Value:
    """Return a constant: int32 if it fits and ``least`` is not wider, else int64."""
    if isinstance(value, bool):
        return Value(str(value).lower(), "bool", value)
    if -(2**31) < value < 2**31 and least != "int64":
        return Value(f"({value})" if value < 0 else str(value), "int32", value)
    if -(2**63) < value < 2**63:
        return Value(f"static_cast<int64>({value}LL)", "int64", value)
    raise Unsupported(f"the constant {value} of more than 64 bits")


def convert(value: Value, wanted: Type) -> str:
    """Return the code of a scalar or of several values as another type."""
    if value.type == wanted:
        return value.code
    if isinstance(value.type, Several) and isinstance(wanted, Several):
        parts = ", ".join(f"parts.v{k}" for k in range(len(wanted.items)))
        return f"[&] {{ const auto parts = {value.code}; return {cpp_type(wanted)}{{{parts}}}; }}()"
    if not (isinstance(value.type, str) and isinstance(wanted, str)) or value.type == "void":
        raise Unsupported(f"{value.type} used as {wanted}")
    if wanted == "bool":
        return f"({value.code} != 0)"
    integral = RANKS[value.type] < RANKS["float32"]
    if integral and RANKS[wanted] < RANKS[value.type] and value.constant is None:
        return f"narrow<{wanted}>({value.code})"
    return f"static_cast<{wanted}>({value.code})"


def truth(value: Value) -> str:
    """Return the code of a scalar's truth."""
    return convert(value, "bool")


def effects(*values: Value) -> dict[str, bool]:
    """Return the effects of evaluating all values in an order that C++ leaves open."""
    if sum(value.writes for value in values) and sum(v.reads or v.writes for v in values) > 1:
        raise Unsupported(
            "a call that writes arrays beside another operand that reads them: C++ may evaluate "
            "them in any order; assign the call's result to a variable first"
        )
    return sequence(*values)


def sequence(*values: Value) -> dict[str, bool]:
    """Return the effects of evaluating all values in order."""
    return {
        "reads": any(value.reads for value in values),
        "writes": any(value.writes for value in values),
    }


@dataclass(frozen=True)
class Intrinsic:
    """A C++ function of the prelude that replaces a rule."""

    name: str
    parameters: tuple[str, ...]
    result: Type
    acts: bool = False
    """Whether it must keep its place between reads and writes."""


INTRINSICS = {
    "smacv2.engine.compile.meet": Intrinsic("MEET", (), "void", acts=True),
    "smacv2.engine.fixed.inverse": Intrinsic("inverse", ("int64",), "int64"),
    "smacv2.engine.fixed.isqrt": Intrinsic("isqrt", ("int64",), "int32"),
    "smacv2.engine.fixed.lowest_bit": Intrinsic("lowest_bit", ("int32",), "int32"),
    "smacv2.engine.rng.multiply_words": Intrinsic(
        "multiply_words", ("int64", "int64"), Several(("int64", "int64"))
    ),
}
"""Rules by qualified name."""

CASTS: dict[Any, str] = {
    bool: "bool", float: "float64", int: "int64",
    numba.int32: "int32", numba.int64: "int64",
    numba.float32: "float32", numba.float64: "float64",
    np.int32: "int32", np.int64: "int64", np.float32: "float32", np.float64: "float64",
}  # fmt: skip

Operators = dict[type, tuple[str, Callable[[int, int], int]]]
"""C++ patterns and Python functions of operators, by class of syntax tree."""

Signs = dict[type, tuple[str, Callable[[int], int]]]

ARITHMETIC: Operators = {
    ast.Add: ("({0} + {1})", operator.add),
    ast.Sub: ("({0} - {1})", operator.sub),
    ast.Mult: ("({0} * {1})", operator.mul),
    ast.FloorDiv: ("floor_div<{type}>({0}, {1})", operator.floordiv),
    ast.Mod: ("floor_mod<{type}>({0}, {1})", operator.mod),
}
BITWISE: Operators = {
    ast.BitAnd: ("({0} & {1})", operator.and_),
    ast.BitOr: ("({0} | {1})", operator.or_),
    ast.BitXor: ("({0} ^ {1})", operator.xor),
}
SHIFTS: Operators = {
    ast.LShift: ("shift_left<{type}>({0}, {1})", operator.lshift),
    ast.RShift: ("({0} >> {1})", operator.rshift),
}
COMPARISONS: dict[type, tuple[str, Callable[[int, int], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
EXTREMES = {min: "smaller", max: "larger"}
CPP_WORDS = frozenset("auto char const default delete double float int long new short this".split())


def cpp_name(name: str) -> str:
    """Return a name that is not a word of C++."""
    return f"{name}_" if name in CPP_WORDS else name


class Expressions:
    """Translator of the expressions of one rule.

    Args:
        function: The rule; its module resolves the names that are not variables.
        variables: Types of the parameters and, as they are found, of the local variables.
        call: Returns the call of another rule with translated arguments.
    """

    def __init__(
        self,
        function: Rule,
        variables: dict[str, Type],
        call: Callable[[Rule, Sequence[Value]], Value],
    ):
        self.globals = {**vars(builtins), **getattr(function, "__globals__", {})}
        closure = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
        self.globals |= closure
        self.variables = variables
        self.call = call

    def value(self, node: ast.expr) -> Value:
        """Return a translated expression."""
        handler = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:
            raise Unsupported(type(node).__name__)
        value: Value = handler(node)
        return value

    def _constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, int):
            return literal(node.value)
        if isinstance(node.value, float):
            return Value(repr(node.value), "float64")
        raise Unsupported(f"the constant {node.value!r}")

    def _name(self, node: ast.Name) -> Value:
        if node.id in self.variables:
            return Value(cpp_name(node.id), self.variables[node.id])
        known = self.globals.get(node.id)
        if isinstance(known, int):
            return literal(known)
        if isinstance(known, float):
            return Value(repr(known), "float64")
        raise Unsupported(f"the name {node.id}: not a variable assigned before, not a number")

    # --- Operators ---

    def _binop(self, node: ast.BinOp) -> Value:
        return self.binary(node.op, self.value(node.left), self.value(node.right))

    def binary(self, op: ast.operator, left: Value, right: Value) -> Value:
        """Return the result of an operator with two operands."""
        kind = type(op)
        result = number(join(number(left.type), number(right.type)))
        if kind is ast.Div:
            result = "float32" if left.type == right.type == "float32" else "float64"
            code = f"({convert(left, result)} / {convert(right, result)})"
            return Value(code, result, **effects(left, right))
        if kind in BITWISE and left.type == right.type == "bool":
            result = "bool"
        if kind in SHIFTS:
            result = number(left.type)
        operators: Operators = {**ARITHMETIC, **BITWISE, **SHIFTS}
        if kind not in operators:
            raise Unsupported(f"the operator {kind.__name__}")
        pattern, evaluate = operators[kind]
        if kind not in (ast.Add, ast.Sub, ast.Mult) and result.startswith("float"):
            raise Unsupported(f"the operator {kind.__name__} on floats")
        if left.constant is not None and right.constant is not None:
            return literal(evaluate(left.constant, right.constant), result)
        second = right.code if kind in SHIFTS else convert(right, result)
        code = pattern.format(convert(left, result), second, type=result)
        return Value(code, result, **effects(left, right))

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        operand = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            if operand.constant is not None:
                return literal(not operand.constant)
            return Value(f"(!{truth(operand)})", "bool", **sequence(operand))
        signs: Signs = {ast.USub: ("-", operator.neg), ast.Invert: ("~", operator.invert)}
        if type(node.op) not in signs:
            raise Unsupported(f"the operator {type(node.op).__name__}")
        sign, evaluate = signs[type(node.op)]
        if operand.constant is not None:
            return literal(evaluate(int(operand.constant)), number(operand.type))
        result = number(operand.type)
        return Value(f"({sign}{convert(operand, result)})", result, **sequence(operand))

    def _boolop(self, node: ast.BoolOp) -> Value:
        """Evaluate from left to right until the result is certain."""
        decisive = isinstance(node.op, ast.Or)
        values: list[Value] = []
        for operand in node.values:
            value = self.value(operand)
            if value.constant is not None and bool(value.constant) != decisive:
                continue
            values.append(value)
            if value.constant is not None:
                break
        if not values:
            return literal(not decisive)
        if values[0].constant is not None:
            return literal(decisive)
        sign = " || " if decisive else " && "
        return Value(f"({sign.join(map(truth, values))})", "bool", **sequence(*values))

    def _compare(self, node: ast.Compare) -> Value:
        operands = [self.value(operand) for operand in (node.left, *node.comparators)]
        constants = [operand.constant for operand in operands if operand.constant is not None]
        pairs = list(zip(operands, operands[1:], node.ops, strict=False))
        if any(type(op) not in COMPARISONS for op in node.ops):
            raise Unsupported("a comparison other than == != < <= > >=")
        if len(constants) == len(operands):
            steps = zip(constants, constants[1:], node.ops, strict=False)
            return literal(all(COMPARISONS[type(op)][1](a, b) for a, b, op in steps))
        names = [operand.code for operand in operands]
        head = ""
        for k, operand in enumerate(node.comparators[:-1], start=1):
            if any(isinstance(part, ast.Call) for part in ast.walk(operand)):
                head += f"const auto middle{k} = {names[k]}; "
                names[k] = f"middle{k}"
        parts = [
            self._comparison(op, left, names[k], right, names[k + 1])
            for k, (left, right, op) in enumerate(pairs)
        ]
        code = " && ".join(parts)
        code = f"[&] {{ {head}return {code}; }}()" if head else f"({code})"
        return Value(code, "bool", **effects(*operands))

    def _comparison(
        self, op: ast.cmpop, left: Value, left_name: str, right: Value, right_name: str
    ) -> str:
        wider = join(number(left.type), number(right.type))
        first = convert(Value(left_name, left.type, left.constant), wider)
        second = convert(Value(right_name, right.type, right.constant), wider)
        return f"{first} {COMPARISONS[type(op)][0]} {second}"

    def _ifexp(self, node: ast.IfExp) -> Value:
        test = self.value(node.test)
        if test.constant is not None:
            return self.value(node.body if test.constant else node.orelse)
        body, other = self.value(node.body), self.value(node.orelse)
        result = join(body.type, other.type)
        code = f"({truth(test)} ? {convert(body, result)} : {convert(other, result)})"
        return Value(code, result, **sequence(test, body, other))

    # --- Arrays and tuples ---

    def _tuple(self, node: ast.Tuple) -> Value:
        values = [self.value(item) for item in node.elts]
        if not 2 <= len(values) <= 4 or not all(isinstance(v.type, str) for v in values):
            raise Unsupported("a tuple other than of 2 to 4 numbers")
        result = Several(tuple(str(value.type) for value in values))
        code = f"{cpp_type(result)}{{{', '.join(value.code for value in values)}}}"
        return Value(code, result, **effects(*values))

    def _subscript(self, node: ast.Subscript) -> Value:
        if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            return self._length(node)
        base = self.value(node.value)
        if isinstance(base.type, Several):
            index = self.value(node.slice).constant
            if index is None or not 0 <= index < len(base.type.items):
                raise Unsupported("an index of a tuple that is not one of its constant positions")
            code = f"{base.code}.v{index}"
            return Value(code, base.type.items[index], None, base.reads, base.writes)
        return self.element(base, self._indices(node))

    def _indices(self, node: ast.Subscript) -> list[Value]:
        nodes = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(isinstance(index, ast.Slice) for index in nodes):
            raise Unsupported("a slice; leave out the last indices to get a row")
        return [self.value(index) for index in nodes]

    def element(self, base: Value, indices: Sequence[Value]) -> Value:
        """Return an element of an array or, with fewer indices than axes, a row."""
        array = base.type
        if not isinstance(array, Array) or len(indices) > len(array.extents):
            raise Unsupported(f"{len(indices)} indices of {array}")
        done = effects(base, *indices)
        codes = [index.code for index in indices]
        if len(indices) < len(array.extents):
            code, row = base.code, array
            for index in codes:
                code, row = f"{code}.row({index})", row.row
            return Value(code, row, None, **done)
        constants = tuple(index.constant for index in indices if index.constant is not None)
        if array.values is not None and len(constants) == len(indices):
            known = np.reshape(array.values, [int(extent or 0) for extent in array.extents])
            return literal(int(known[constants]))
        code = f"{base.code}({', '.join(codes)})"
        result = "int32" if array.element == "int8" else array.element
        return Value(code, result, None, True, done["writes"])

    def _length(self, node: ast.Subscript) -> Value:
        assert isinstance(node.value, ast.Attribute)
        base = self.value(node.value.value)
        axis = self.value(node.slice).constant
        if not isinstance(base.type, Array) or axis is None:
            raise Unsupported("a shape of something other than an array, or at a variable index")
        extent = base.type.extents[axis]
        return Value(f"{base.code}.shape({axis})", "int32") if extent is None else literal(extent)

    # --- Calls ---

    def _call(self, node: ast.Call) -> Value:
        if not isinstance(node.func, ast.Name) or node.func.id in self.variables or node.keywords:
            raise Unsupported("a call other than of a named function with positional arguments")
        function = self.globals.get(node.func.id)
        arguments = [self.value(argument) for argument in node.args]
        if function in (min, max, abs):
            return self._extreme(function, arguments)
        if function in CASTS:
            return self._cast(CASTS[function], arguments)
        plain = python_function(function) if callable(function) else None
        if not inspect.isfunction(plain):
            raise Unsupported(f"the function {node.func.id}")
        intrinsic = INTRINSICS.get(f"{plain.__module__}.{plain.__name__}")
        if intrinsic is None:
            return self.call(plain, arguments)
        codes = [convert(a, t) for a, t in zip(arguments, intrinsic.parameters, strict=True)]
        done = effects(*arguments)
        code = f"{intrinsic.name}({', '.join(codes)})"
        return Value(code, intrinsic.result, None, done["reads"], done["writes"] or intrinsic.acts)

    def _extreme(self, function: Any, arguments: list[Value]) -> Value:
        constants = [value.constant for value in arguments if value.constant is not None]
        if len(constants) == len(arguments):
            return literal(function(*constants))
        if function is abs:
            (value,) = arguments
            result = number(value.type)
            code = f"absolute<{result}>({convert(value, result)})"
            return Value(code, result, **effects(value))
        total = arguments[0]
        for value in arguments[1:]:
            result = str(join(number(total.type), number(value.type)))
            operands = f"{convert(total, result)}, {convert(value, result)}"
            code = f"{EXTREMES[function]}<{result}>({operands})"
            total = Value(code, result, **effects(total, value))
        return total

    def _cast(self, wanted: str, arguments: list[Value]) -> Value:
        (value,) = arguments
        constant = value.constant if wanted in ("bool", "int64", "int32") else None
        if wanted == "bool" and constant is not None:
            constant = bool(constant)
        return Value(convert(value, wanted), wanted, constant, **sequence(value))
