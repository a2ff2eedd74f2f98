"""Compile the CUDA kernels of 15 scenarios without a GPU; print their needs as JSON.

    pip install 'smacv2-suite[cuda]' nvidia-cuda-nvrtc
    python benchmarks/cuda_compile.py

``seconds`` is the time of NVRTC with an empty cache, one kernel after the other. ``stack_bytes``
is the local memory of a thread: 0 if the compiler has spilled no registers.
"""

import argparse
import json
import re
import struct
import tempfile
import time
from typing import Any

import numba
from cuda.bindings import nvrtc

from smacv2 import ENGINE_VERSION
from smacv2.battle import BattleState, Outputs
from smacv2.engine.compile import cache_folder
from smacv2.engine.cuda import (
    Card,
    Kernel,
    Sizes,
    compile_kernel,
    play_kernel,
    reset_kernel,
    show_kernel,
)
from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.scenario import load_scenario, scenario_names

MAIN_SCENARIOS = [name for name in scenario_names() if not re.search("conic|epo", name)]

REGISTERS, STACK = 0x2F, 0x11
"""Attributes in the section ``.nv.info`` of machine code: registers, local memory of a thread."""

WITH_PAYLOAD = 0x04
"""Format of an attribute whose value follows its header."""


def main() -> None:
    """Compile every kernel and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", nargs="+", default=MAIN_SCENARIOS)
    parser.add_argument("--num-envs", type=int, default=4096, help="battles of the batch")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--multiprocessors", type=int, default=132)
    parser.add_argument("--shared-bytes", type=int, default=232_448, help="per block")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numba.config.CACHE_DIR = folder
        kernels = {name: report(name, args) for name in args.scenarios}
    facts = {
        "command": "python benchmarks/cuda_compile.py",
        "arch": args.arch,
        "num_envs": args.num_envs,
        "engine_version": ENGINE_VERSION,
        "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
    }
    print(json.dumps(facts | {"kernels": kernels}, indent=1))


def report(name: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Compile the kernels of a scenario; return the facts of each."""
    scenario = load_scenario(name)
    layout = Layout.of(scenario, scenario.options)
    tables = Tables.build(scenario, scenario.options, layout)
    state = BattleState.empty(1, scenario.num_agents, scenario.num_enemies)
    sizes = Sizes.of(state, tables, Outputs.empty(1, layout))
    card = Card(args.arch, args.multiprocessors, args.shared_bytes)
    kernels = (
        play_kernel(sizes, args.num_envs, card),
        reset_kernel(sizes),
        show_kernel(sizes, tables.rules, card),
    )
    return {kernel.name: facts_of(kernel, sizes, args.arch) for kernel in kernels}


def facts_of(kernel: Kernel, sizes: Sizes, arch: str) -> dict[str, Any]:
    """Compile a kernel; return its division of threads, its needs and the seconds."""
    for stored in cache_folder().glob("*.cubin"):  # scenarios may share a kernel
        stored.unlink()
    start = time.perf_counter()
    code = compile_kernel(kernel, sizes, arch)
    seconds = time.perf_counter() - start
    attributes = attributes_of(code)
    return {
        "lanes": kernel.lanes,
        "warps": kernel.warps,
        "battles": kernel.battles,
        "registers": attributes[REGISTERS],
        "stack_bytes": attributes[STACK],
        "shared_bytes": sizes.shared_bytes(kernel),
        "code_bytes": len(code),
        "seconds": round(seconds, 1),
    }


def attributes_of(code: bytes) -> dict[int, int]:
    """Return the largest value of each attribute (symbol, value) in machine code (ELF)."""
    section = find_section(code, b".nv.info")
    attributes: dict[int, int] = {}
    at = 0
    while at < len(section):
        form, attribute, size = struct.unpack_from("<BBH", section, at)
        at += 4
        if form == WITH_PAYLOAD:
            if size == 8:
                value = struct.unpack_from("<II", section, at)[1]
                attributes[attribute] = max(value, attributes.get(attribute, 0))
            at += size
    return attributes


def find_section(code: bytes, name: bytes) -> bytes:
    """Return the bytes of a section of a 64-bit ELF file."""
    (first,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQ", code, first + size * n) for n in range(count)]
    for label, _, _, _, offset, length in headers:
        start = headers[names][4] + label
        if code[start : code.index(b"\0", start)] == name:
            return code[offset : offset + length]
    raise ValueError(f"no section {name!r}")


if __name__ == "__main__":
    main()
