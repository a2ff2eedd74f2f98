"""Packaging metadata; tool settings are in pyproject.toml, tested versions in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "smacv2" / "__init__.py").read_text("utf-8"), re.MULTILINE
)[1]

EXTRAS = {
    "atari": ["ale-py>=0.12"],
    "mujoco": ["imageio", "mujoco>=3.1.3"],  # Gymnasium's tasks import imageio
    "envpool": ["envpool>=1.2.5"],
    "cuda": ["cuda-bindings>=12.9", "cuda-core>=0.5"],  # PyTorch for CUDA brings NVRTC
    "plots": ["matplotlib"],
    "test": [
        "ale-py>=0.12",
        "hypothesis",
        "imageio",
        "import-linter",
        "matplotlib",
        "mujoco>=3.1.3",
        "mypy",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
    ],
    "docs": ["furo", "myst-parser", "sphinx"],
}

setup(
    name="smacv2-suite",
    version=VERSION,
    description="SMACv2 on an embedded battle engine, baselines, and instruments of plasticity",
    author="The SMACv2 suite authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    keywords=["reinforcement learning", "multi-agent", "SMAC", "StarCraft II", "MAPPO"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # maps/ holds data only; it is installed as smacv2/maps, where smacv2.scenario looks for it.
    packages=[
        *find_packages(include=["smacv2*", "ppo_plasticity*", "baselines*"]),
        "smacv2.maps",
    ],
    package_dir={"smacv2.maps": "maps"},
    package_data={
        "": ["py.typed"],
        "baselines.results": ["data/*.json"],
        "smacv2.engine": ["*.h", "*.cuh"],
        "smacv2": ["data/*"],
        "smacv2.maps": ["*.toml", "*/*.toml"],
    },
    install_requires=[
        "gymnasium>=1.4",
        "numba>=0.61",
        "numpy>=2.0",
        "rich",
        "safetensors",
        "tensorboard",
        "torch>=2.4",
        "tyro",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "smacv2 = smacv2.cli:main",
            "baselines = baselines.cli:main",
            "ppo-plasticity = ppo_plasticity.cli:main",
        ]
    },
)
