"""Compile the CUDA driver without a GPU: PTX through numba-cuda, registers and spills by ptxas.

    pip install 'smacv2-suite[cuda]' nvidia-cuda-nvcc
    python benchmarks/cuda_compile.py --ptxas path/to/ptxas

ptxas is optional; it lies in the folder ``nvidia/cu13/bin`` of the package ``nvidia-cuda-nvcc``.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numba.cuda.dispatcher
from numba import cuda, types

from smacv2.engine.cuda import run_battles

COMPUTE_CAPABILITY = (9, 0)


class NoDevice:
    """Stands in for the device that numba-cuda asks for its compute capability."""

    compute_capability = COMPUTE_CAPABILITY


def signature() -> types.Type:
    """Return the kernel's argument types, in the order of ``run_battles``."""
    int32, int8, float32, boolean = types.int32, types.int8, types.float32, types.boolean
    shapes = [
        (int8, 1), (int32, 3), (int32, 2), (int8, 3), (int32, 2), (int32, 1), (int32, 2),
        (int32, 2), (int32, 2), (int32, 2), (int8, 2), (int32, 2), (float32, 3), (float32, 2),
        (int8, 3), (float32, 1), (boolean, 1), (boolean, 1),
    ]  # fmt: skip
    return types.void(*(types.Array(dtype, ndim, "C") for dtype, ndim in shapes))


def main() -> None:
    """Compile, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ptxas", help="path of the assembler")
    args = parser.parse_args()
    numba.cuda.dispatcher.get_current_device = lambda: NoDevice
    start = time.perf_counter()
    ptx, _ = cuda.compile_ptx(run_battles, signature(), cc=COMPUTE_CAPABILITY, device=False)
    report = {
        "ptx_seconds": round(time.perf_counter() - start, 1),
        "ptx_bytes": len(ptx),
        "fused_multiply_adds": len(re.findall(r"\bfma\.", ptx)),
    }
    if args.ptxas:
        report |= assemble(ptx, args.ptxas)
    print(json.dumps(report))


def assemble(ptx: str, ptxas: str) -> dict[str, float]:
    """Return registers, spills and seconds as ptxas reports them for the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "run_battles.ptx"
        source.write_text(ptx)
        start = time.perf_counter()
        command = [ptxas, "-v", "-arch=sm_90", str(source), "-o", str(source.with_suffix(".cubin"))]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    kernel = log[log.index("run_battles") :]
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
