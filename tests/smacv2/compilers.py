"""The mark of tests that need a C++ compiler."""

import pytest

from smacv2.engine.native import NativeError, compiler


def missing_compiler() -> str:
    """Return why there is no C++ compiler; "" if there is one."""
    try:
        compiler()
    except NativeError as error:
        return str(error)
    return ""


needs_compiler = pytest.mark.skipif(bool(missing_compiler()), reason=missing_compiler())
