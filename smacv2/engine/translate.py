"""Battle rules as C++: a translator of the Python that rules are written in.

    python -m smacv2.engine.translate            # the rules of the CUDA driver, on one battle
    python -m smacv2.engine.translate run_range  # a function of the CPU driver, with its rules

The translation contains every rule that the given functions call, once per combination of argument
types. Arrays are parameters of C++ templates: any class with ``view(i, j)``, ``view.row(i)`` and
``view.shape(axis)`` will do. ``prelude.h`` has such classes for dense arrays.
"""

import ast
import inspect
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smacv2.engine.compile import Rule, python_function
from smacv2.engine.expressions import (
    Array,
    Expressions,
    Several,
    TranslationError,
    Type,
    Unsupported,
    Value,
    convert,
    cpp_name,
    cpp_type,
    effects,
    join,
    literal,
    truth,
)

PRELUDE = Path(__file__).with_name("prelude.h")

PARSING = threading.Lock()
"""CPython 3.11 counts the depth of syntax trees once for all threads: one thread parses at a time
(python/cpython issue 106905)."""

TABLES: dict[str, Type] = {
    **{name: Array.of("int32", 2) for name in ("kinds", "teams", "points", "spiral", "cone")},
    "rules": Array.of("int32", 1),
    "pathing": Array.of("int8", 2),
}
BATTLE: dict[str, Type] = {
    **TABLES,
    "unit": Array.of("int32", 2),
    "world": Array.of("int32", 1),
    "sights": Array.of("int8", 2),
    "actions": Array.of("int32", 1),
    "obs": Array.of("float32", 2),
    "state": Array.of("float32", 1),
    "mask": Array.of("int8", 2),
}
"""Types of the parameters of rules by name; all others are int32 numbers."""

BATCH: dict[str, Type] = {
    **TABLES,
    **{
        name: Array.of(type_.element, len(type_.extents) + 1)
        for name, type_ in BATTLE.items()
        if name not in TABLES and isinstance(type_, Array)
    },
    "units": Array.of("int32", 3),
    "commands": Array.of("int8", 1),
    "reward": Array.of("float32", 1),
    "terminated": Array.of("bool", 1),
    "truncated": Array.of("bool", 1),
}
"""Types of the parameters of loops over battles by name; all others are int32 numbers."""


def translate(functions: Iterable[Rule], types: Mapping[str, Type], *, lines: bool = False) -> str:
    """Return the C++ of functions and of all rules that they call, without the prelude.

    Args:
        functions: Rules, or loops over battles; their C++ functions have the same names, in
            namespace ``smacv2``.
        types: Types of their parameters by name; all others are int32 numbers.
        lines: Let C++ compilers and sanitizers report the lines of the Python source.

    Raises:
        TranslationError: A rule uses Python that has no translation.
    """
    program = Program(lines)
    for function in map(python_function, functions):
        parameters = inspect.signature(function).parameters
        program.instance(function, tuple(types.get(name, "int32") for name in parameters))
    return program.text()


@dataclass
class Instance:
    """A rule translated for certain types of arguments."""

    name: str
    text: str = ""
    result: Type = "void"
    reads: bool = False
    writes: bool = False
    calls: list["Instance"] = field(default_factory=list)


class Program:
    """The rules translated so far.

    Args:
        lines: Refer to lines of the Python source.
    """

    def __init__(self, lines: bool = False):
        self.lines = lines
        self._instances: dict[tuple[Rule, tuple[object, ...]], Instance] = {}
        self._names: set[str] = set()
        self._wanted: list[Instance] = []

    def instance(self, function: Rule, types: Sequence[Type | Value]) -> Instance:
        """Return a function of the program: one that C++ code may call."""
        instance = self.find(function, tuple(types))
        self._wanted.append(instance)
        return instance

    def find(self, function: Rule, types: tuple[object, ...]) -> Instance:
        """Return a translated rule; translate it if need be."""
        key = (function, types)
        if key not in self._instances:
            name = cpp_name(function.__name__)
            while name in self._names:
                name += "_"
            self._names.add(name)
            self._instances[key] = instance = Instance(name)
            RuleTranslator(self, function, types, instance).translate()
        return self._instances[key]

    def text(self) -> str:
        """Return all functions that are needed, each after those that it calls."""
        texts = [instance.text for instance in self._in_order()]
        return "\n".join(
            ["namespace smacv2 {\nnamespace {\n", *texts, "}\n}  // namespace smacv2\n"]
        )

    def _in_order(self) -> Iterator[Instance]:
        done: set[int] = set()

        def visit(instance: Instance) -> Iterator[Instance]:
            if id(instance) not in done:
                done.add(id(instance))
                for called in instance.calls:
                    yield from visit(called)
                yield instance

        for instance in self._wanted:
            yield from visit(instance)


class RuleTranslator:
    """Translator of the statements of one rule.

    The types of variables are found by translating the rule again until no type gets wider.
    """

    def __init__(
        self, program: Program, function: Rule, types: tuple[object, ...], instance: Instance
    ):
        self.program = program
        self.function = function
        self.instance = instance
        self.file = inspect.getsourcefile(function) or "?"
        self.tree, self.first_line = _definition(function)
        self.parameters = [argument.arg for argument in self.tree.args.args]
        if len(self.parameters) != len(types):
            raise self._error(self.tree, Unsupported(f"a call with {len(types)} arguments"))
        self.variables: dict[str, Type] = dict(zip(self.parameters, types, strict=True))  # type: ignore[arg-type]
        self.expressions = Expressions(function, self.variables, self._call)
        self.read = {
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        self.result: Type | None = None
        self.views: set[str] = set()

    def translate(self) -> None:
        """Fill in the instance."""
        before: object = None
        while before != (before := (dict(self.variables), self.result)):
            self.instance.calls.clear()
            self.views.clear()
            body = self._block(self.tree.body)
        if self.result not in (None, "void") and not _always_returns(self.tree.body):
            raise self._error(self.tree, Unsupported("a path that returns no value"))
        self.instance.result = self.result or "void"
        self.instance.text = "\n".join([*self._head(), *_indented(self._locals() + body), "}\n"])

    def _head(self) -> Iterator[str]:
        arrays = {
            name: _camel(name)
            for name in self.parameters
            if isinstance(self.variables[name], Array)
        }
        if arrays:
            yield f"template <{', '.join(f'class {name}' for name in arrays.values())}>"
        parameters = ", ".join(
            f"{arrays.get(name) or cpp_type(self.variables[name])} {cpp_name(name)}"
            for name in self.parameters
        )
        macro = "INLINE_RULE" if getattr(self.function, "inlined", False) else "RULE"
        yield f"{macro} {cpp_type(self.instance.result)} {self.instance.name}({parameters}) {{"

    def _locals(self) -> list[str]:
        return [
            f"{cpp_type(type_)} {cpp_name(name)}{{}};"
            for name, type_ in self.variables.items()
            if name not in self.parameters and not isinstance(type_, Array)
        ]

    def _call(self, function: Rule, arguments: Sequence[Value]) -> Value:
        types = tuple(argument.type for argument in arguments)
        callee = self.program.find(function, types)
        if callee is self.instance or not callee.text:
            raise Unsupported(f"recursion of {function.__name__}")
        if callee not in self.instance.calls:
            self.instance.calls.append(callee)
        done = effects(*arguments)
        code = f"{callee.name}({', '.join(argument.code for argument in arguments)})"
        reads, writes = done["reads"] or callee.reads, done["writes"] or callee.writes
        return Value(code, callee.result, None, reads, writes)

    def _value(self, node: ast.expr) -> Value:
        value = self.expressions.value(node)
        self._note(value)
        return value

    def _note(self, value: Value) -> None:
        self.instance.reads |= value.reads
        self.instance.writes |= value.writes

    # --- Statements ---

    def _block(self, nodes: Sequence[ast.stmt]) -> list[str]:
        lines = []
        for node in nodes:
            handler = getattr(self, f"_{type(node).__name__.lower()}", None)
            try:
                if handler is None:
                    raise Unsupported(type(node).__name__)
                translated = handler(node)
            except Unsupported as error:
                raise self._error(node, error) from None
            if self.program.lines and translated:
                lines.append(f'#line {self._line(node)} "{self.file}"')
            lines += translated
        return lines

    def _line(self, node: ast.AST) -> int:
        return self.first_line + getattr(node, "lineno", 1) - 1

    def _error(self, node: ast.AST, error: Unsupported) -> TranslationError:
        place = f"{self.file}:{self._line(node)}"
        return TranslationError(f"{place}: construct not supported: {error}")

    def _pass(self, node: ast.Pass) -> list[str]:
        return []

    def _break(self, node: ast.Break) -> list[str]:
        return ["break;"]

    def _continue(self, node: ast.Continue) -> list[str]:
        return ["continue;"]

    def _expr(self, node: ast.Expr) -> list[str]:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return []
        return [f"{self._value(node.value).code};"]

    def _return(self, node: ast.Return) -> list[str]:
        value = Value("", "void") if node.value is None else self._value(node.value)
        self.result = value.type if self.result is None else join(self.result, value.type)
        return ["return;"] if node.value is None else [f"return {convert(value, self.result)};"]

    def _if(self, node: ast.If) -> list[str]:
        test = self._value(node.test)
        if test.constant is not None:
            return self._block(node.body if test.constant else node.orelse)
        lines = [f"if ({truth(test)}) {{", *_indented(self._block(node.body))]
        if node.orelse:
            lines += ["} else {", *_indented(self._block(node.orelse))]
        return [*lines, "}"]

    def _while(self, node: ast.While) -> list[str]:
        if node.orelse:
            raise Unsupported("while ... else")
        test = self._value(node.test)
        if test.constant is not None and not test.constant:
            return []
        return [f"while ({truth(test)}) {{", *_indented(self._block(node.body)), "}"]

    def _for(self, node: ast.For) -> list[str]:
        start, stop, step = self._range(node)
        assert isinstance(node.target, ast.Name)
        name = node.target.id
        type_ = str(join(join(start.type, stop.type), "int32"))
        count, end = f"next_{name}", f"stop_{name}"
        compare = ">" if step.constant is not None and step.constant < 0 else "<"
        body = []
        if name in self.read:
            self._declare(name, type_)
            body = [f"{cpp_name(name)} = {count};"]
        body += self._block(node.body)
        return [
            "{",
            f"    const {type_} {end} = {convert(stop, type_)};",
            f"    for ({type_} {count} = {convert(start, type_)}; {count} {compare} {end}; "
            f"{count} += {convert(step, type_)}) {{",
            *_indented(_indented(body)),
            "    }",
            "}",
        ]

    def _range(self, node: ast.For) -> tuple[Value, Value, Value]:
        """Return start, stop and step; a step that is not constant must be positive."""
        called = node.iter.func if isinstance(node.iter, ast.Call) else None
        if not isinstance(called, ast.Name) or called.id != "range" or node.orelse:
            raise Unsupported("a for loop other than over range, or with else")
        if not isinstance(node.target, ast.Name):
            raise Unsupported("a for loop with several variables")
        assert isinstance(node.iter, ast.Call)
        values = [self._value(argument) for argument in node.iter.args]
        if any(value.writes for value in values):
            raise Unsupported("a call that writes arrays inside range(...)")
        if len(values) == 1:
            values.insert(0, literal(0))
        if len(values) == 2:
            values.append(literal(1))
        start, stop, step = values
        if step.constant == 0:
            raise Unsupported("a step of zero")
        return start, stop, step

    def _assign(self, node: ast.Assign) -> list[str]:
        if len(node.targets) != 1:
            raise Unsupported("an assignment to several targets at once")
        (target,) = node.targets
        if not isinstance(target, ast.Tuple):
            return [self._store(target, self._value(node.value))]
        if isinstance(node.value, ast.Tuple):
            if len(node.value.elts) != len(target.elts):
                raise Unsupported("an assignment of another number of values")
            values = [self._value(item) for item in node.value.elts]
            lines = [
                f"const {cpp_type(value.type)} value{k} = {value.code};"
                for k, value in enumerate(values)
            ]
            parts = [Value(f"value{k}", v.type, v.constant) for k, v in enumerate(values)]
        else:
            several = self._value(node.value)
            if not isinstance(several.type, Several):
                raise Unsupported("an assignment of one value to several targets")
            if len(several.type.items) != len(target.elts):
                raise Unsupported("an assignment of another number of values")
            lines = [f"const auto values = {several.code};"]
            parts = [Value(f"values.v{k}", t) for k, t in enumerate(several.type.items)]
        stores = [self._store(t, part) for t, part in zip(target.elts, parts, strict=True)]
        return ["{", *_indented(lines + stores), "}"]

    def _augassign(self, node: ast.AugAssign) -> list[str]:
        old = self._value(node.target)
        value = self.expressions.binary(node.op, old, self._value(node.value))
        return [self._store(node.target, value)]

    def _store(self, target: ast.expr, value: Value) -> str:
        """Return the assignment of a value to a variable or an array element."""
        if isinstance(target, ast.Name):
            if isinstance(value.type, Array):
                return self._view(target.id, value)
            self._declare(target.id, value.type)
            return f"{cpp_name(target.id)} = {convert(value, self.variables[target.id])};"
        if not isinstance(target, ast.Subscript):
            raise Unsupported(f"an assignment to {type(target).__name__}")
        place = self._value(target)
        base = self.expressions.value(target.value)
        if not isinstance(base.type, Array) or isinstance(place.type, Array):
            raise Unsupported("an assignment to something other than an array element")
        if base.type.values is not None:
            raise Unsupported("an assignment to an array whose elements are known")
        if place.writes:
            raise Unsupported("a call that writes arrays in the index of an assignment")
        self.instance.writes = True
        return f"{place.code} = {convert(value, base.type.element)};"

    def _declare(self, name: str, type_: Type) -> None:
        if type_ == "void":
            raise Unsupported(f"{name} set to the result of a rule that returns nothing")
        known = self.variables.get(name)
        self.variables[name] = type_ if known is None else join(known, type_)

    def _view(self, name: str, value: Value) -> str:
        if name in self.views or name in self.parameters:
            raise Unsupported(f"{name}: a second array for one variable")
        self.views.add(name)
        self.variables[name] = value.type
        return f"const auto {cpp_name(name)} = {value.code};"


def _definition(function: Rule) -> tuple[ast.FunctionDef, int]:
    """Return a function's syntax tree and the line of its file that is the tree's line 1."""
    source, first_line = inspect.getsourcelines(function)
    with PARSING:
        tree = ast.parse(textwrap.dedent("".join(source))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise TranslationError(f"{function}: construct not supported: not a plain function")
    return tree, max(first_line, 1)


def _always_returns(nodes: Sequence[ast.stmt]) -> bool:
    """Return whether a block of statements ends in return on every path."""
    last = nodes[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _always_returns(last.body) and _always_returns(last.orelse)
    return isinstance(last, ast.Return)


def _indented(lines: Iterable[str]) -> list[str]:
    return [line if line.startswith("#line") else f"    {line}" for line in lines]


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def main(names: Sequence[str]) -> None:
    """Print the translation of functions of the CPU driver, or of the rules of the CUDA driver."""
    from smacv2.engine import cpu, loop

    functions: list[Rule] = [getattr(cpu, name) for name in names]
    types = BATCH if names else BATTLE
    print(f'#include "{PRELUDE}"\n')
    print(translate(functions or [loop.play_battle, loop.show], types))


if __name__ == "__main__":
    main(sys.argv[1:])
