"""The one error type for a user's mistake."""

from __future__ import annotations


class InputError(ValueError):
    """A file, argument or configuration that cannot be used.

    The message is one line that says what was expected and what came. The command line
    prints it on stderr and exits with code 2; Python callers can catch it as a `ValueError`.
    """
