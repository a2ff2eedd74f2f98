"""Errors of bad input and of failed training, and the sentence that helps to correct a name."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input from the user: commands print its one line and exit with status 2."""


class TrainingError(UsageError):
    """Training that cannot continue: the one line names the last good checkpoint."""


def expected(what: str, given: object, allowed: Iterable[str], limit: int = 8) -> str:
    """Return one line with the given name, its nearest match and the allowed names.

    Args:
        what: kind of thing that was named, for example `"environment"`.
        given: the user's input.
        allowed: all valid names.
        limit: most names that the line lists.
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    return f"unknown {what} {str(given)!r}.{hint} Allowed: {listed or 'none'}."
