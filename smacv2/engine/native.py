"""Loops over battles compiled by the machine's C++ compiler, from the translated rules.

A C++ compiler makes faster code of the rules than Numba, in less time. The compiled library is
stored beside Numba's files (``compile.cache_folder``), under a name that changes with the source,
the compiler, its flags and the kind of machine. There is one library for all games; large batches
have another of their own game, whose array lengths and rules are part of the code.
"""

import ctypes
import functools
import hashlib
import inspect
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import llvmlite.binding
import numpy as np

from smacv2.engine.compile import Rule, cache_folder, python_function
from smacv2.engine.expressions import Array, Type
from smacv2.engine.translate import BATCH, PRELUDE, translate

COMPILERS = ("g++", "clang++", "c++")
LIBRARY_FLAGS = ("-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
"""No contraction: the few floating-point operations must round the same everywhere."""

FAST_FLAGS = ("-O3",)
"""Flags of a library to play with."""

EXTENSIONS = ("avx2", "bmi", "bmi2", "lzcnt", "popcnt")
"""Instructions that most x86 processors since 2013 have; they save a seventh of the time.

``-march=native`` made slower code: loops over 10 to 40 units are too short for wider vectors.
"""

CHECKED_FLAGS = (
    "-O1", "-g", "-DSMACV2_CHECKED", "-fsanitize=signed-integer-overflow,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
)  # fmt: skip
"""Flags of a library that aborts at the first overflow or index out of range, naming the rule."""


class NativeError(RuntimeError):
    """No library could be compiled or loaded; the message says why."""


def compiler() -> list[str]:
    """Return the command of the C++ compiler: ``$CXX`` if set, else the first one installed.

    Raises:
        NativeError: There is none.
    """
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise NativeError(f"no C++ compiler: {' '.join(wanted) or ', '.join(COMPILERS)} not found")


@functools.cache
def compiler_version() -> str:
    """Return the first line that the C++ compiler prints about itself."""
    return _run([*compiler(), "--version"]).partition("\n")[0]


@functools.cache
def processor_flags() -> tuple[str, ...]:
    """Return the compiler's flags for those ``EXTENSIONS`` that this processor has."""
    features = llvmlite.binding.get_host_cpu_features()
    return tuple(f"-m{name}" for name in EXTENSIONS if features.get(name))


def _run(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NativeError(f"{command[0]}: {error}") from error
    if result.returncode:
        told = result.stderr[-4000:] or f"exit status {result.returncode}"
        raise NativeError(f"{' '.join(command)} failed:\n{told}")
    return result.stdout


def build(
    functions: Sequence[Rule],
    flags: Sequence[str] = FAST_FLAGS,
    types: Mapping[str, Type] = BATCH,
) -> Path:
    """Return the compiled library of loops over battles; compile it if it is not stored.

    Args:
        functions: The loops.
        flags: Of the compiler, beside those that every library has.
        types: Types of the loops' parameters: ``BATCH`` for any game, or those of one game.

    Raises:
        NativeError: There is no compiler, or it fails.
    """
    names = [python_function(function).__name__ for function in functions]
    command = [compiler_version(), *LIBRARY_FLAGS, *processor_flags(), *flags]
    identity = "\n".join([*names, repr(sorted(types.items())), *command, platform.machine()])
    folder = cache_folder()
    library = folder / f"native-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            output = Path(scratch) / "rules.so"
            text = source_text(functions, types, lines="-g" in flags)
            compile_library(text, output, (*LIBRARY_FLAGS, *processor_flags(), *flags))
            output.replace(library)
    return library


def compile_library(text: str, library: Path, flags: Sequence[str]) -> None:
    """Compile C++ source; the source is stored beside the library.

    Raises:
        NativeError: There is no compiler, or it fails.
    """
    source = library.with_suffix(".cpp")
    source.write_text(text)
    _run([*compiler(), *flags, "-o", str(library), str(source)])


def source_text(
    functions: Sequence[Rule], types: Mapping[str, Type] = BATCH, *, lines: bool = False
) -> str:
    """Return the C++ source of a library of loops over battles.

    Each loop is called with one block of int64 arguments: a number is one of them, an array is its
    address followed by its shape.
    """
    wrappers = [_wrapper(python_function(function), types) for function in functions]
    translation = translate(functions, types, lines=lines)
    return "\n".join([PRELUDE.read_text(), translation, *wrappers])


def _wrapper(function: Rule, types: Mapping[str, Type]) -> str:
    """Return the C function that unpacks a block of arguments."""
    arguments: list[str] = []
    position = 0
    for name in inspect.signature(function).parameters:
        type_ = types.get(name)
        if not isinstance(type_, Array):
            arguments.append(f"static_cast<smacv2::int32>(arguments[{position}])")
            position += 1
            continue
        dimensions = len(type_.extents)
        address = f"reinterpret_cast<{type_.element}*>(arguments[{position}])"
        lengths = [
            f"static_cast<int32>(arguments[{position + 1 + axis}])"
            for axis, extent in enumerate(type_.extents)
            if extent is None
        ]
        arguments.append(f"{_view(type_)}{{{', '.join([address, *lengths])}}}")
        position += 1 + dimensions
    call = f"smacv2::{function.__name__}(\n        " + ",\n        ".join(arguments) + ")"
    return (
        f'extern "C" void {function.__name__}(const smacv2::int64* arguments) {{\n'
        f"    using namespace smacv2;\n    {call};\n}}\n"
    )


def _view(type_: Array) -> str:
    """Return the class of the prelude for an array; the constructor takes the unknown lengths."""
    first, *others = type_.extents
    if first is None and others and None not in others:
        return f"Batch<{_view(type_.row)}>"
    if None in type_.extents:
        return f"View{len(type_.extents)}<{type_.element}>"
    name = "Table" if others else "Line"
    return f"{name}<{', '.join(map(str, [type_.element, first, *others]))}>"


class NativeLoop:
    """A loop over battles of a library, to be called like the Python function.

    It remembers the addresses of the arrays of its last call, so a driver should have its own.
    Known elements are part of the code: changes of them after the first call have no effect.

    Args:
        library: Path of a library from ``build``.
        function: The Python function.
        types: The types that the library was built with.
    """

    def __init__(self, library: Path, function: Rule, types: Mapping[str, Type] = BATCH):
        plain = python_function(function)
        try:
            self._function = getattr(ctypes.CDLL(str(library)), plain.__name__)
        except (OSError, AttributeError) as error:
            raise NativeError(f"cannot load {library}: {error}") from error
        self._function.restype = None
        known = {name: types.get(name) for name in inspect.signature(plain).parameters}
        self._arrays = {name: type_ for name, type_ in known.items() if isinstance(type_, Array)}
        self._last: tuple[tuple[np.ndarray, ...], list[tuple[int, ...]]] = ((), [])

    def __call__(self, first: int, last: int, *arrays: np.ndarray) -> None:
        """Run battles [first, last); other threads may do the same for other battles.

        Raises:
            TypeError: An array has another type or shape than the compiled code reads.
            ValueError: An array has other elements than the compiled code knows.
        """
        known, parts = self._last
        if not known:
            known, parts = (None,) * len(arrays), [()] * len(arrays)  # type: ignore[assignment]
        if any(a is not b for a, b in zip(arrays, known, strict=True)):
            names = zip(self._arrays.items(), arrays, known, parts, strict=True)
            parts = [
                part if array is old else _address(name, type_, array)
                for (name, type_), array, old, part in names
            ]
            self._last = (arrays, parts)
        block = [number for part in parts for number in part]
        self._function((ctypes.c_int64 * (len(block) + 2))(first, last, *block))


def _address(name: str, type_: Array, array: np.ndarray) -> tuple[int, ...]:
    """Return an array's address and shape after checking its type and its known elements."""
    pairs = zip(array.shape, type_.extents, strict=False)
    fits = array.dtype.name == type_.element and array.ndim == len(type_.extents)
    if not fits or not array.flags.c_contiguous:
        raise TypeError(
            f"{name} must be a contiguous array of {type_.element} with {len(type_.extents)} axes"
        )
    if any(extent not in (None, length) for length, extent in pairs):
        raise TypeError(f"{name} must have shape {type_.extents}, not {array.shape}")
    if type_.values is not None and array.ravel().tolist() != list(type_.values):
        raise ValueError(
            f"{name} has changed since these loops were compiled; let the driver use those of "
            "compiled_loops(), which play any game"
        )
    return (array.ctypes.data, *array.shape)
