"""Compilation: a decorator for battle rules, another for the loops that Python calls.

Numba caches machine code on disk, but it only notices changes in the file of the function it
compiles, not in the rules which that function calls. Compiled rules are therefore stored in a
folder named after a hash of the whole engine's source: an edited or upgraded engine never runs
stale code.
"""

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config as numba_config
from numba.core import types
from numba.core.compiler import Compiler

config: Any = numba_config
njit: Any = numba.njit
"""Typed as Any, because both have attributes and options that their type stubs lack."""

Rule = Callable[..., Any]

ROOM_BYTES = 4 << 20
"""Room that a cache folder must have: more than the compiled rules take."""

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""``error_model="numpy"`` drops the zero-division branches, which no rule needs. No fast-math: the
few floating-point operations (observations) must round the same everywhere."""


def rule(function: Rule) -> Any:
    """Compile a battle rule for the CPU; the CUDA driver compiles the same function for the GPU."""
    return _compile_once(njit(**OPTIONS, pipeline_class=RuleCompiler)(function))


def inline_rule(function: Rule) -> Any:
    """Compile a short rule into its callers, because a call would cost more than the body."""
    function.__dict__["inlined"] = True
    return _compile_once(njit(**OPTIONS, pipeline_class=RuleCompiler, forceinline=True)(function))


def python_function(function: Rule) -> Rule:
    """Return the plain Python function that a decorator of this module has compiled."""
    plain: Rule = getattr(function, "py_func", function)
    return plain


class RuleCompiler(Compiler):
    """Numba's compiler without the wrappers and machine code that only calls from Python need.

    Rules are linked into the loops that Python calls, so skipping the rest shortens a first start.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for flag in ("no_compile", "no_cpython_wrapper", "no_cfunc_wrapper"):
            setattr(self.state.flags, flag, True)

    def compile_extra(self, func: Rule) -> Any:
        """Compile a rule; the result holds a token in place of an address."""
        result = super().compile_extra(func)._replace(entry_point=InnerRule())
        self.state.targetctx.insert_user_function(
            result.entry_point, result.fndesc, [result.library]
        )
        return result


class InnerRule:
    """Token for a compiled rule, which has no address of its own."""

    def __call__(self, *args: Any) -> None:
        """Refuse: only compiled code can call a compiled rule."""
        raise TypeError(
            "a battle rule can only be called by compiled code; call its py_func, or set "
            "NUMBA_DISABLE_JIT=1"
        )


def _compile_once(dispatcher: Any) -> Any:
    """Give a rule a single signature in calls from other rules: every integer and bool as int64.

    Otherwise Numba compiles a rule again for each mix of int32, int64 and literal arguments, which
    more than doubles the time of a first start.
    """
    if config.DISABLE_JIT:
        return dispatcher
    resolve = dispatcher.get_call_template

    def get_call_template(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return resolve(tuple(map(_widest, args)), kwargs)

    def add_overload(result: Any) -> None:
        dispatcher.overloads[tuple(result.signature.args)] = result

    dispatcher.get_call_template = get_call_template
    dispatcher.add_overload = add_overload
    return dispatcher


def _widest(argument: types.Type) -> types.Type:
    plain = types.unliteral(argument)
    return types.int64 if isinstance(plain, types.Integer | types.Boolean) else plain


@inline_rule
def meet():
    """Wait for the other lanes of this battle; with one lane there is nothing to wait for."""


def entry_point(function: Rule) -> Any:
    """Compile a loop over battles and cache it on disk, with all the rules it calls."""
    user_folder = config.CACHE_DIR
    config.CACHE_DIR = str(cache_folder())
    try:
        return njit(**OPTIONS, cache=True)(function)
    finally:
        config.CACHE_DIR = user_folder


@functools.cache
def cache_folder() -> Path:
    """Return the folder of rules compiled from the present source; create it if needed.

    The folder is in ``NUMBA_CACHE_DIR`` if that is set, else in the user's cache folder, else (if
    that is not writable or full) in the system's folder for temporary files.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parents = [Path(config.CACHE_DIR or home) / "smacv2", Path(tempfile.gettempdir()) / "smacv2"]
    for parent in parents:
        folder = parent / f"engine-{source_hash()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if has_room(folder):
            return folder
    raise OSError(f"no folder to cache compiled rules in; tried {', '.join(map(str, parents))}")


def has_room(folder: Path) -> bool:
    """Return whether a folder takes files of the size of compiled rules."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM_BYTES))
    except OSError:
        return False
    return True


@functools.cache
def source_hash() -> str:
    """Return a hash of every source file that compiled code is made from."""
    engine = Path(__file__).parent
    digest = hashlib.sha256()
    for path in [engine.parent / "battle.py", *sorted(engine.glob("*.py")), engine / "prelude.h"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
