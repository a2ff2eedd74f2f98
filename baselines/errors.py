"""The one error that bad input raises, and the sentence that helps to correct it."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input from the user: commands print its one line and exit with status 2."""


class TrainingError(UsageError):
    """Training that cannot go on; the one line says where it stands."""


def expected(what: str, given: object, allowed: Iterable[str], limit: int = 8) -> str:
    """Return one line that names what was given, the nearest match and what is allowed.

    Args:
        what: the thing that was named, for example `"environment"`.
        given: what the user wrote.
        allowed: the names that would have been right.
        limit: how many allowed names the line lists at most.
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    return f"unknown {what} {str(given)!r}.{hint} Allowed: {listed or 'none'}."
