"""How rules are compiled: one decorator, so that every rule is compiled the same way."""

import numba

rule = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Compile a battle rule for the CPU; the CUDA driver compiles the same function for the GPU.

``error_model="numpy"`` drops the zero-division branches, which no rule needs. No fast-math: the
few floating-point operations (observations) must round the same everywhere.
"""
