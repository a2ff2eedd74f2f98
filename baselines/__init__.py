"""Learners on SMACv2, MuJoCo and Atari, and everything a run needs. It imports no PyTorch."""

import os

# Read with MKL's first product: without it, a product rounds by where its operands lie in memory,
# and a seed would not get the same numbers alone as among others. It costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
