"""Learners for SMACv2, MuJoCo and Atari, and everything a run needs; imported without PyTorch."""

import os

# MKL reads this at its first product. Without it, rounding depends on the operands' memory
# addresses, and a seed would get other numbers alone than among others. It has no measurable cost.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
