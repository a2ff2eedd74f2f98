"""Check this machine: packages, compiler, devices, and cures for what is wrong."""

import ctypes
import importlib
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

OK, ABSENT, WRONG = "ok", "absent", "wrong"

DISTRIBUTION = "smacv2-suite"
MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``absent`` is optional and missing; only ``wrong`` needs a cure."""

    name: str
    status: str
    value: str
    cure: str = ""
    """One line; if something is absent, how to get it."""


def examine() -> list[Finding]:
    """Run all checks; this never raises, and imports neither torch nor protobuf."""
    return [finding for check in CHECKS for finding in check()]


def report(findings: list[Finding]) -> dict[str, object]:
    """Return the findings as ``smacv2 doctor --json`` prints them."""
    healthy = all(finding.status != WRONG for finding in findings)
    return {"healthy": healthy, "findings": [asdict(finding) for finding in findings]}


# --- Python and packages -------------------------------------------------------------------------


def check_python() -> Iterator[Finding]:
    """Check the interpreter, and count the processors that it may use."""
    needed = ".".join(map(str, MINIMUM_PYTHON))
    new_enough = tuple(map(int, platform.python_version_tuple()[:2])) >= MINIMUM_PYTHON
    cure = "" if new_enough else f"use Python {needed} or newer"
    yield Finding("python", OK if new_enough else WRONG, platform.python_version(), cure)
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count()
    yield Finding("cpu threads", OK, f"{usable} usable of {there}")


def check_packages() -> Iterator[Finding]:
    """Compare the installed packages with the versions that the metadata requires."""
    try:
        requirements = metadata(DISTRIBUTION).get_all("Requires-Dist") or []
    except PackageNotFoundError:
        yield Finding(DISTRIBUTION, WRONG, "not installed", "pip install -e . in the checkout")
        return
    yield Finding(DISTRIBUTION, OK, version(DISTRIBUTION))
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield _package(requirement)


def _package(requirement: str) -> Finding:
    match = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", requirement)
    assert match is not None, requirement
    name, minimum = match.groups()
    found = installed(name)
    cure = f'pip install "{name}>={minimum}"' if minimum else f"pip install {name}"
    if found is None:
        return Finding(name, WRONG, "not installed", cure)
    if minimum and _numbers(found) < _numbers(minimum):
        return Finding(name, WRONG, f"{found}, needs {minimum}", cure)
    return Finding(name, OK, found)


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 13, 0) for "2.13.0+cu130"."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def installed(name: str) -> str | None:
    """Return a distribution's version without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_conflicts() -> Iterator[Finding]:
    """Look for packages that silently break others."""
    if installed("pygame") and installed("pygame-ce"):
        cure = "pip uninstall pygame pygame-ce, then install one of them: both own module pygame"
        yield Finding("pygame", WRONG, "pygame and pygame-ce", cure)
    if installed("enum34"):
        cure = "pip uninstall enum34: a Python 2 back-port that can hide the standard enum"
        yield Finding("enum34", WRONG, installed("enum34") or "", cure)
    if installed("SMACv2"):
        cure = "pip uninstall SMACv2, then reinstall smacv2-suite: both own module smacv2"
        yield Finding("upstream SMACv2", WRONG, installed("SMACv2") or "", cure)
    pillow = installed("pillow")
    if pillow and installed("moviepy") and _numbers(pillow) < (12,):
        cure = "moviepy needs pillow below 12: pip uninstall moviepy to use a newer pillow"
        yield Finding("pillow", OK, pillow, cure)


# --- Engine, devices, game -----------------------------------------------------------------------


def check_engine() -> Iterator[Finding]:
    """Check the compiler and the folder of compiled rules."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        cure = "unset NUMBA_DISABLE_JIT: rules run uncompiled, for debugging only"
        yield Finding("compiler", WRONG, "switched off", cure)
    try:
        folder = importlib.import_module("smacv2.engine.compile").cache_folder()
    except OSError as error:
        cure = "set NUMBA_CACHE_DIR to a writable folder, or every start compiles the rules again"
        yield Finding("compile cache", WRONG, str(error), cure)
    except Exception as error:  # a broken numba or llvmlite raises various errors
        cure = "pip install --force-reinstall numba"
        yield Finding("compiler", WRONG, f"{type(error).__name__}: {error}", cure)
    else:
        yield _cache(folder)


def check_cpu() -> Iterator[Finding]:
    """Say which compiler the CPU's loops over battles are from, and why."""
    try:
        engine, _ = importlib.import_module("smacv2.engine.cpu").compiled_loops()
    except (RuntimeError, ValueError) as error:
        cure = "unset SMACV2_CPU to take whichever compiler there is"
        yield Finding("cpu engine", WRONG, str(error), cure)
    except Exception:  # check_engine reports a broken numba
        return
    else:
        name = engine.partition("\n")[0]
        if engine.startswith("numba") and "SMACV2_CPU" not in engine:
            cure = "a working g++ or clang++ (or CXX): rules start and run faster"
            yield Finding("cpu engine", ABSENT, name, cure)
        else:
            yield Finding("cpu engine", OK, name)


def _cache(folder: Path) -> Finding:
    size = _megabytes(folder)
    value = f"{folder} ({size:.1f} MB, writable)"
    others = [other for other in folder.parent.glob("engine-*") if other != folder]
    if others:
        value += f"; {len(others)} of other versions ({sum(map(_megabytes, others)):.1f} MB)"
    return Finding("compile cache", OK, value)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def check_cuda() -> Iterator[Finding]:
    """Look for NVIDIA's driver, PyTorch for CUDA and cuda-core, without a CUDA context."""
    driver, devices = cuda_driver()
    if driver is None:
        yield Finding("cuda driver", ABSENT, "libcuda not found", "only device=cuda needs it")
    elif devices == 0:
        cure = "check nvidia-smi and CUDA_VISIBLE_DEVICES"
        yield Finding("cuda driver", ABSENT, f"CUDA {driver}, no device", cure)
    else:
        yield Finding("cuda driver", OK, f"CUDA {driver}, devices: {devices}")
    build = torch_cuda()
    cure = "" if build else "install PyTorch for CUDA (pytorch.org) for device=cuda"
    yield Finding("torch cuda", OK if build else ABSENT, build or "no PyTorch for CUDA", cure)
    for name in ("cuda-core", "cuda-bindings"):
        found = installed(name)
        cure = "" if found else f'pip install "{DISTRIBUTION}[cuda]" for device=cuda'
        yield Finding(name, OK if found else ABSENT, found or "not installed", cure)


def torch_cuda() -> str | None:
    """Return the CUDA version that PyTorch is built for, without importing it; None without one."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    built = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b.*= ['\"](.+)['\"]$", built, re.MULTILINE)
    return match[1] if match else None


def cuda_driver() -> tuple[str | None, int]:
    """Return the driver's CUDA version (None without a driver) and the number of devices."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, 0
    number, devices = ctypes.c_int(0), ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(number))
    if library.cuInit(0) == 0:
        library.cuDeviceGetCount(ctypes.byref(devices))
    major, rest = divmod(number.value, 1000)
    return f"{major}.{rest // 10}", devices.value


def check_game() -> Iterator[Finding]:
    """Look for StarCraft II and the packages that talk to it; the engine needs none of them."""
    path = os.environ.get("SC2PATH")
    if path is None:
        cure = "only the real game needs it: set it to the StarCraft II folder"
        yield Finding("SC2PATH", ABSENT, "not set", cure)
    elif not (Path(path) / "Versions").is_dir():
        cure = "set it to the folder that contains Versions/ and Maps/, or unset it"
        yield Finding("SC2PATH", WRONG, f"{path} has no folder Versions", cure)
    else:
        yield Finding("SC2PATH", OK, path)
    for name in ("protobuf", "pysc2", "pys2clientprotocol"):
        found = installed(name)
        cure = "" if found else f"only the real game needs it: pip install {name}"
        yield Finding(name, OK if found else ABSENT, found or "not installed", cure)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_conflicts,
    check_engine,
    check_cpu,
    check_cuda,
    check_game,
)
