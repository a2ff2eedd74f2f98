"""Settings of the whole test suite."""

import os
import sys

import hypothesis
import pytest

# As `import baselines` does, but before any test's first product: a process has one setting.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# A deadline would make tests fail for a busy machine; pytest-timeout stops those that hang.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def exact_small_numbers():
    """Learners flush subnormal numbers in their process; give them back to the next test."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
