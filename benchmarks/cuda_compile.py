"""Compile the CUDA kernels without a GPU: PTX through numba-cuda, registers and spills by ptxas.

    pip install 'smacv2-suite[cuda]' nvidia-cuda-nvcc
    python benchmarks/cuda_compile.py --ptxas path/to/ptxas

ptxas is optional; it is in the folder ``nvidia/cu13/bin`` of the package ``nvidia-cuda-nvcc``.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba.cuda.dispatcher
from numba import cuda, types

from smacv2.engine.cuda import play_battles, show_agents

COMPUTE_CAPABILITY = (9, 0)

TYPES = {
    "commands": (types.int8, 1), "units": (types.int32, 3), "world": (types.int32, 2),
    "sights": (types.int8, 3), "kinds": (types.int32, 2), "rules": (types.int32, 1),
    "teams": (types.int32, 2), "points": (types.int32, 2), "spiral": (types.int32, 2),
    "cone": (types.int32, 2), "pathing": (types.int8, 2), "actions": (types.int32, 2),
    "obs": (types.float32, 3), "state": (types.float32, 2), "mask": (types.int8, 3),
    "reward": (types.float32, 1), "terminated": (types.boolean, 1),
    "truncated": (types.boolean, 1),
}  # fmt: skip
"""Type and number of axes of every array parameter of the kernels, by name."""


class NoDevice:
    """Replacement for the device that numba-cuda asks for its compute capability."""

    compute_capability = COMPUTE_CAPABILITY


def main() -> None:
    """Compile both kernels and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ptxas", help="path of the assembler")
    parser.add_argument("--keep", type=Path, help="folder for the PTX")
    args = parser.parse_args()
    numba.cuda.dispatcher.get_current_device = lambda: NoDevice
    kernels = (play_battles, show_agents)
    print(json.dumps({k.__name__: report(k, args.ptxas, args.keep) for k in kernels}))


def report(kernel: Callable[..., Any], ptxas: str | None, keep: Path | None) -> dict[str, Any]:
    """Compile one kernel; return seconds, sizes and the assembler's figures."""
    names = kernel.__code__.co_varnames[: kernel.__code__.co_argcount]
    arguments = [types.Array(*TYPES[name], "C") if name in TYPES else types.int64 for name in names]
    start = time.perf_counter()
    ptx, _ = cuda.compile_ptx(kernel, types.void(*arguments), cc=COMPUTE_CAPABILITY, device=False)
    facts = {
        "ptx_seconds": round(time.perf_counter() - start, 1),
        "ptx_bytes": len(ptx),
        "calls": len(re.findall(r"\bcall\b", ptx)),
        "fused_multiply_adds": len(re.findall(r"\bfma\.", ptx)),
    }
    if keep:
        (keep / f"{kernel.__name__}.ptx").write_text(ptx)
    return facts | (assemble(ptx, kernel.__name__, ptxas) if ptxas else {})


def assemble(ptx: str, name: str, ptxas: str) -> dict[str, float]:
    """Assemble PTX; return the seconds, and the registers and spills that ptxas reports."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        start = time.perf_counter()
        command = [ptxas, "-v", "-arch=sm_90", str(source), "-o", str(source.with_suffix(".cubin"))]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    kernel = log[log.index(name) :]
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", kernel)
    registers = re.search(r"Used (\d+) registers", kernel)
    return {
        "ptxas_seconds": round(time.perf_counter() - start, 1),
        "registers": int(registers[1]),
        "spill_store_bytes": int(spills[1]),
        "spill_load_bytes": int(spills[2]),
    }


if __name__ == "__main__":
    main()
