"""Battle rules translated to C++: they mean the same as in Python, and play the same bytes."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from smacv2.engine import cpu
from smacv2.engine.compile import config, inline_rule, meet, python_function
from smacv2.engine.expressions import Array, TranslationError
from smacv2.engine.fixed import inverse, isqrt
from smacv2.engine.native import (
    LIBRARY_FLAGS,
    NativeLoop,
    compile_library,
    compiler,
    source_text,
)
from smacv2.engine.rng import multiply_words
from smacv2.engine.translate import BATTLE, translate
from tests.smacv2 import native_battles
from tests.smacv2.compilers import needs_compiler
from tests.smacv2.native_battles import CASES, compiled, play, with_own_loops

needs_numba = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


def run_elsewhere(code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process with other environment variables."""
    return subprocess.run(
        [sys.executable, *code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- Small functions -------------------------------------------------------------------------
# Each works on rows of `world`: inputs first, then the results.

LIMIT = 3


def divide(first, last, world):
    for b in range(first, last):
        world[b, 2] = world[b, 0] // world[b, 1]
        world[b, 3] = world[b, 0] % world[b, 1]
        world[b, 4] = world[b, 0] >> 1
        world[b, 5] = (world[b, 0] << 4) ^ ~world[b, 1]


def compare(first, last, world):
    for b in range(first, last):
        x = world[b, 0]
        world[b, 2] = -2 <= x < LIMIT
        world[b, 3] = 0 < max(x, world[b, 1]) <= 5 if x != 7 else -1
        world[b, 4] = x == 1 or (x > 1 and not x > LIMIT)
        world[b, 5] = min(x, world[b, 1], 4) + abs(x)


def widen(first, last, world):
    for b in range(first, last):
        best = 0
        best = int(world[b, 0]) * world[b, 1]
        world[b, 2] = best >> 32
        world[b, 3] = best // 1_000_000
        world[b, 4] = (best & 0xFFFFFFFF) % 1000
        world[b, 5] = best > 2_000_000_000


def loop(first, last, world):
    for b in range(first, last):
        total = 0
        for i in range(world[b, 0], world[b, 1], -2):
            if i == 4:
                continue
            if i < 0:
                break
            total += 10 * total + i
        world[b, 2] = total
        world[b, 3] = i
        for j in range(0, world[b, 0], LIMIT):
            total -= j
        k = 0
        while k * k < world[b, 0]:
            k += 1
        world[b, 4] = total
        world[b, 5] = k


def swap(first, last, world):
    for b in range(first, last):
        row = world[b]
        row[0], row[1] = row[1], row[0]
        low, high = ordered(row[0], row[1])
        row[2], row[3] = high, low
        row[4] = ordered(low + 1, 0)[1]
        row[5] = row.shape[0]


@inline_rule
def ordered(a, b):
    if a < b:
        return a, b
    return b, a


def share_work(first, last, world):
    lanes = 2
    for lane in range(first, last):
        for i in range(lane, 6, lanes):
            world[0, i] += 10 * lane + i
        meet()


def measure(first, last, world, reward):
    for b in range(first, last):
        reward[b] = float(world[b, 0]) / 3 if world[b, 1] else 0.5


FUNCTIONS = (divide, compare, widen, loop, swap, share_work, measure)
ROWS = [(7, 2), (-7, 2), (7, -2), (-8, 3), (1, 1), (3, 5), (9, -1), (2_000_003, 70_000), (0, -4)]
TABLE = np.array([(*row, 0, 0, 0, 0) for row in ROWS], np.int32)


@pytest.fixture(scope="module")
def library():
    loops = compiled(list(FUNCTIONS), ("-O1",))
    return {f.__name__: loop for f, loop in zip(FUNCTIONS, loops, strict=True)}


@needs_compiler
@pytest.mark.parametrize("function", [divide, compare, widen, swap], ids=lambda f: f.__name__)
def test_a_translated_function_computes_what_python_computes(library, function, monkeypatch):
    monkeypatch.setitem(globals(), "ordered", python_function(ordered))
    expected, found = TABLE.copy(), TABLE.copy()
    plain = [[int(value) for value in row] for row in TABLE]  # Python's own unlimited integers
    if function is not swap:
        rows = Rows(plain)
        function(0, len(TABLE), rows)
        expected = np.array(plain, np.int32)
    else:
        function(0, len(TABLE), expected)
    library[function.__name__](0, len(TABLE), found)
    assert found.tolist() == expected.tolist()


class Rows:
    """Lists of numbers, indexed like an array."""

    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, index):
        return self.rows[index[0]][index[1]]

    def __setitem__(self, index, value):
        self.rows[index[0]][index[1]] = int(value)


@needs_compiler
def test_division_rounds_down_and_the_remainder_has_the_sign_of_the_divisor(library):
    table = TABLE.copy()
    library["divide"](0, 4, table)
    assert table[:4, 2:4].tolist() == [[3, 1], [-4, 1], [-4, -1], [-3, 1]]


@needs_compiler
def test_loops_count_down_skip_end_early_and_leave_their_variable_behind(library):
    table = np.array([(9, 0, 0, 0, 0, 0), (6, -9, 0, 0, 0, 0)], np.int32)
    library["loop"](0, 2, table)
    # 9, 7, 5, 3, 1: t = 11 t + i; then minus 0 + 3 + 6.
    total = (((9 * 11 + 7) * 11 + 5) * 11 + 3) * 11 + 1
    assert table[0].tolist() == [9, 0, total, 1, total - 9, 3]
    # 6, (4), 2, 0, and -2 ends the loop; then minus 0 + 3.
    total = (6 * 11 + 2) * 11
    assert table[1].tolist() == [6, -9, total, -2, total - 3, 3]


@needs_compiler
def test_lanes_share_a_loop_by_a_step_that_is_a_variable(library):
    table = np.zeros((1, 6), np.int32)
    library["share_work"](0, 2, table)
    assert table.tolist() == [[0, 11, 2, 13, 4, 15]]


@needs_compiler
def test_only_the_given_battles_are_touched(library):
    table = TABLE.copy()
    library["divide"](2, 4, table)
    assert np.array_equal(table[:2], TABLE[:2])
    assert np.array_equal(table[4:], TABLE[4:])


@needs_compiler
def test_floats_are_those_of_python_rounded_once(library):
    reward = np.zeros(2, np.float32)
    library["measure"](0, 2, np.array([(1, 1), (1, 0)], np.int32), reward)
    assert reward.tolist() == [np.float32(1 / 3), 0.5]


@needs_compiler
def test_an_array_of_another_type_is_refused_by_name(library):
    for table in (TABLE.astype(np.int64), TABLE[0], TABLE[:, ::2]):
        with pytest.raises(TypeError, match="world must be a contiguous array of int32 with 2"):
            library["divide"](0, 1, table)


@needs_compiler
def test_loops_that_know_the_rules_refuse_other_rules():
    rules = np.array([3, 7], np.int32)
    types = {"world": Array.of("int32", 2), "rules": Array.baked(rules)}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        compile_library(source_text([apply_rules], types), library, LIBRARY_FLAGS)
        loop_of_one_game = NativeLoop(library, apply_rules, types)
    table = TABLE.copy()
    loop_of_one_game(0, 1, table, rules)
    assert table[0, 2] == 10
    rules = np.array([3, 8], np.int32)
    with pytest.raises(ValueError, match="rules has changed since these loops were compiled"):
        loop_of_one_game(0, 1, table, rules)


def apply_rules(first, last, world, rules):
    for b in range(first, last):
        world[b, 2] = rules[0] + rules[1]


def take_root(first, last, world):
    for b in range(first, last):
        world[b, 2] = isqrt((int(world[b, 0]) << 31) | world[b, 1])


def invert(first, last, world):
    for b in range(first, last):
        result = inverse(world[b, 0])
        world[b, 1] = result >> 31
        world[b, 2] = result & 0x7FFFFFFF


def multiply(first, last, world):
    for b in range(first, last):
        high, low = multiply_words(int(world[b, 0]) & 0xFFFFFFFF, int(world[b, 1]) & 0xFFFFFFFF)
        world[b, 2], world[b, 3] = high - (1 << 31), low - (1 << 31)


@pytest.fixture(scope="module", params=["", "-DSMACV2_SINGLE_PRECISION"], ids=["cpu", "cuda"])
def exact(request):
    """Return the functions above compiled with the arithmetic of either device."""
    return compiled([take_root, invert, multiply], ("-O1", *request.param.split()))


@needs_compiler
def test_roots_of_numbers_beside_squares_are_exact(exact):
    roots = [*range(1, 3000), *(2**k + d for k in range(12, 26) for d in (-3, -1, 0, 1, 2))]
    roots += np.random.default_rng(1).integers(1, 2**26, 20_000).tolist()
    numbers = [root * root + d for root in roots for d in (-1, 0, 1)] + [0, 2**52 - 1]
    table = np.array([(n >> 31, n & 0x7FFFFFFF, 0) for n in numbers], np.int32)
    exact[0](0, len(table), table)
    assert table[:, 2].tolist() == [math.isqrt(n) for n in numbers]


@needs_compiler
def test_inverses_are_exact(exact):
    distances = [*range(-1, 40_000), *(2**k + d for k in range(16, 31) for d in (-1, 0, 1))]
    distances += np.random.default_rng(2).integers(1, 2**31, 20_000).tolist()
    table = np.array([(d, 0, 0) for d in distances], np.int32)
    exact[1](0, len(table), table)
    found = [(int(high) << 31) | int(low) for _, high, low in table]
    assert found == [2**40 // max(d, 1) for d in distances]


@needs_compiler
def test_products_of_words_have_64_bits(exact):
    pairs = [(0xFFFFFFFF, 0xFFFFFFFF), (0x80000000, 2), (0xD2511F53, 0xCD9E8D57)]
    table = np.array([(a, b, 0, 0) for a, b in pairs], np.uint32).view(np.int32)
    exact[2](0, len(table), table)
    found = [((int(high) + 2**31) << 32) + int(low) + 2**31 for *_, high, low in table]
    assert found == [a * b for a, b in pairs]


# --- What has no translation -----------------------------------------------------------------


def prints(unit, i):
    if unit[0, i] > 0:
        print(i)


def uses_text(unit, i):
    unit[0, i] = "text"


def falls_through(unit, i):
    if unit[0, i]:
        return 1


def reads_unset(unit, i):
    unit[0, i] = later  # noqa: F821
    later = 1  # noqa: F841


def kills(unit, i):
    unit[0, i] = 0
    return 1


def depends_on_order(unit, i):
    return unit[0, i] + kills(unit, i)


@pytest.mark.parametrize(
    ("function", "line", "reason"),
    [
        (prints, 2, "the function print"),
        (uses_text, 1, "the constant 'text'"),
        (falls_through, 0, "a path that returns no value"),
        (reads_unset, 1, "the name later"),
        (depends_on_order, 1, "in any order"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_untranslatable_rule_is_refused_with_file_and_line(function, line, reason):
    with pytest.raises(TranslationError) as caught:
        translate([function], BATTLE)
    place = f"{Path(__file__)}:{function.__code__.co_firstlineno + line}: "
    assert str(caught.value).startswith(place + "construct not supported: ")
    assert reason in str(caught.value)


# --- What a translation looks like -----------------------------------------------------------

SWITCH, WIDTH = range(2)


def switched(unit, rules, i):
    if rules[SWITCH]:
        return kills(unit, i)
    return rules[WIDTH] * unit.shape[1]


def test_known_elements_and_lengths_become_literals_and_dead_branches_vanish():
    types = {"unit": Array("int32", (None, 20)), "rules": Array.baked(np.array([0, 7], np.int32))}
    text = translate([switched], types)
    assert "return 140;" in text
    assert "kills" not in text
    assert "rules(1) * unit.shape(1)" in translate([switched], BATTLE)


def test_every_rule_of_a_battle_is_translated_once_before_its_callers():
    from smacv2.engine.loop import play_battle

    text = translate([play_battle], BATTLE)
    heads = [line for line in text.splitlines() if line.startswith(("RULE ", "INLINE_RULE "))]
    names = [head.partition("(")[0].rpartition(" ")[2] for head in heads]
    assert len(set(names)) == len(names)
    assert names[-1] == "play_battle"


# --- Battles ---------------------------------------------------------------------------------


@needs_compiler
@needs_numba
@pytest.mark.parametrize("case", CASES)
def test_native_loops_play_the_same_bytes_as_numba(case, monkeypatch):
    monkeypatch.setenv("SMACV2_CPU", "native")
    native = play(case)
    monkeypatch.setenv("SMACV2_CPU", "numba")
    assert play(case) == native


QUICK_CASES = ("many terran", "upstream conic", "shared sights", "obs as state")


@needs_compiler
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c in QUICK_CASES else pytest.mark.slow) for c in CASES],
)
def test_loops_of_one_game_play_the_same_bytes_as_loops_of_any_game(case, monkeypatch):
    monkeypatch.setenv("SMACV2_CPU", "native")
    assert play(case, with_own_loops) == play(case)


@needs_compiler
def test_loops_of_one_game_refuse_the_arrays_of_another():
    types = {"world": Array("int32", (None, 6))}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        compile_library(source_text([divide], types), library, LIBRARY_FLAGS)
        own_divide = NativeLoop(library, divide, types)
    table = TABLE.copy()
    own_divide(0, 1, table)
    assert table[0].tolist() == [7, 2, 3, 1, 3, 7 << 4 ^ ~2]
    with pytest.raises(TypeError, match=r"world must have shape \(None, 6\), not \(9, 5\)"):
        own_divide(0, 1, TABLE[:, :5].copy())


@needs_compiler
@pytest.mark.parametrize(
    "own", [pytest.param([]), pytest.param(["--own"], marks=pytest.mark.slow)], ids=["any", "own"]
)
def test_no_rule_overflows_or_leaves_an_array_in_any_case(own):
    result = run_elsewhere(["-m", "tests.smacv2.native_battles", *own])
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(CASES)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("overflow", "signed integer overflow: 1048576 * 65536"),
        ("index_before_start", "index out of range of axis 1: -1"),
        ("number_too_large", "number too large: 68719476736"),
    ],
)
def test_the_checks_report_the_line_of_the_rule(name, complaint):
    result = run_elsewhere(["-m", "tests.smacv2.native_battles", name])
    line = getattr(native_battles, name).__code__.co_firstlineno + 2
    assert result.returncode != 0
    assert f"native_battles.py:{line}:" in result.stderr
    assert complaint in result.stderr


# --- Which compiler --------------------------------------------------------------------------

ENGINE_AND_HASH = """
from smacv2.engine.cpu import compiled_loops
from tests.smacv2.native_battles import play
print(compiled_loops()[0].partition(chr(10))[0])
print(play("terran")[-1])
"""


@needs_numba
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nowhere", "CXX": ""}, "numba (no C++ compiler: g++, clang++, c++ not found)"),
        ({"CXX": "false"}, "numba (false --version failed:"),
        ({"SMACV2_CPU": "numba"}, "numba (SMACV2_CPU)"),
    ],
    ids=["no compiler", "a broken compiler", "forced"],
)
def test_without_a_compiler_numba_plays_the_same_bytes(environment, reason):
    result = run_elsewhere(["-c", ENGINE_AND_HASH], **{"SMACV2_CPU": "", **environment})
    assert result.returncode == 0, result.stderr
    engine, found = result.stdout.split("\n")[:2]
    assert engine.startswith(reason)
    assert found == play("terran")[-1]


NO_OWN_LOOPS = """#!/bin/sh
for last; do :; done
if [ -f "$last" ] && grep -q "Batch<Table" "$last"; then exit 1; fi
exec {compiler} "$@"
"""

ENGINES = """
from smacv2.engine.cpu import LARGE_BATCH
from smacv2.gymnasium_env import SMACv2VectorEnv
for num_envs in (LARGE_BATCH - 1, LARGE_BATCH):
    driver = SMACv2VectorEnv("terran_5_vs_5", num_envs).backend.driver
    print(driver.engine.startswith("native"), "for one game" in driver.engine)
    driver.show()
"""


@needs_compiler
def test_large_batches_have_loops_of_their_game_if_these_can_be_compiled(tmp_path):
    result = run_elsewhere(["-c", ENGINES], SMACV2_CPU="native")
    assert result.stdout.splitlines() == ["True False", "True True"], result.stderr
    script = tmp_path / "compiler"
    script.write_text(NO_OWN_LOOPS.format(compiler=" ".join(compiler())))
    script.chmod(0o755)
    cache = str(tmp_path / "cache")
    result = run_elsewhere(["-c", ENGINES], CXX=str(script), SMACV2_CPU="", NUMBA_CACHE_DIR=cache)
    assert result.stdout.splitlines() == ["True False", "True False"], result.stderr


def test_a_forced_native_engine_without_a_compiler_says_what_is_missing(monkeypatch):
    if config.DISABLE_JIT:
        pytest.skip("NUMBA_DISABLE_JIT is set")
    code = "from smacv2.engine.cpu import compiled_loops; compiled_loops()"
    result = run_elsewhere(["-c", code], SMACV2_CPU="native", CXX="no-such-compiler")
    assert result.returncode != 0
    assert "NativeError: no C++ compiler: no-such-compiler not found" in result.stderr
    monkeypatch.setenv("SMACV2_CPU", "fortran")
    with pytest.raises(ValueError, match="SMACV2_CPU must be native or numba, not 'fortran'"):
        cpu.compiled_loops()


@needs_compiler
def test_the_native_engine_never_starts_numbas_compiler():
    code = """
import numpy as np
from smacv2.engine import cpu
from tests.smacv2.native_battles import play
play("terran")
assert not any(loop.signatures for loop in cpu.LOOPS)
"""
    result = run_elsewhere(["-c", code], SMACV2_CPU="native", NUMBA_DISABLE_JIT="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_the_rules_of_a_battle(tmp_path):
    from smacv2.engine.loop import play_battle, show
    from smacv2.engine.translate import PRELUDE

    unit, world = "View2<int32>{data, 60, 10}", "View1<int32>{data, 20}"
    table, bytes_ = "View2<const int32>{data, 9, 9}", "View2<int8>{bytes, 9, 9}"
    rules, floats = "View1<const int32>{data, 75}", "View2<float>{floats, 5, 9}"
    source = tmp_path / "kernel.cu"
    source.write_text(
        f'#include "{PRELUDE}"\n{translate([play_battle, show], BATTLE)}\n'
        "using namespace smacv2;\n"
        "__global__ void play(int32* data, int8* bytes, float* floats) {\n"
        f"  floats[0] = play_battle(1, {unit}, {world}, {bytes_}, {table}, {rules}, {table},\n"
        f"    {table}, {table}, {table}, {bytes_}, {world}, {bytes_});\n"
        f"  show({unit}, {world}, {bytes_}, {table}, {rules}, {table}, {bytes_}, {floats},\n"
        f"    View1<float>{{floats, 9}}, {bytes_});\n}}\n"
    )
    command = ["nvcc", "-arch=sm_90", "-cubin", "-o", str(tmp_path / "kernel.cubin"), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
