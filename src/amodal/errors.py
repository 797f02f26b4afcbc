"""The error for a user's mistake, and the limits and checks that several packages share."""

from __future__ import annotations

MAX_QUESTION_LENGTH = 1000
"""Characters. A longer text is a mistake (the content of a file, say) and no question."""


class InputError(ValueError):
    """A file, argument or configuration that cannot be used.

    The message is one line that says what was expected and what was found. The command line prints
    it on stderr and exits with code 2; Python callers can catch it as a `ValueError`.
    """


class InputWarning(UserWarning):
    """Something about a file or argument that had to be guessed. The command line prints it as one line on stderr."""


def check_settings(config: object, checks: dict[str, bool]) -> None:
    """Raise `InputError` for the first check that does not hold.

    Args:
        config: its attribute of the name before the colon is the value in the error message.
        checks: messages, `name: what is expected`, and whether they hold.
    """
    for message, holds in checks.items():
        if not holds:
            raise InputError(f"{message}, got {getattr(config, message.split(':')[0])!r}")
