"""The embedded battle engine: StarCraft II's battle rules in integer arithmetic.

Each rule is a plain scalar Python function on the arrays of one battle. For the CPU (``cpu.py``) it
is translated to C++ (``translate.py``) or, without a C++ compiler, compiled by Numba; for CUDA
(``cuda.py``) it is compiled by Numba. ``NUMBA_DISABLE_JIT=1`` runs it uncompiled.

Comments cite the rules they implement: ``(mechanics 5.4)`` is paragraph 5.4 of
``docs/mechanics.md``, ``(interface 2.6)`` is section 2.6 of ``docs/interface.md``.
"""
