"""The error for a user's mistake, and the limits and checks that several packages share."""

from __future__ import annotations

import re
import unicodedata

MAX_QUESTION_LENGTH = 1000
"""Characters. A longer text is a mistake (the content of a file, say) and no question."""

_SPECIAL_TOKEN = re.compile(
    r"<\|[^<>]{0,80}?\|>"  # <|im_end|>
    r"|</?[a-z][\w.:-]{0,60}/?>"  # <image>, </s>, <start_of_turn>
    r"|<<\s*/?\w{1,20}\s*>>"  # <<SYS>>
    r"|\[/?(?:SEG|INST|IMG|IMG_\w{1,20}|SYSTEM_PROMPT|TOOL_\w{1,20}|AVAILABLE_TOOLS|CLS|SEP|MASK|GMASK|PAD|UNK|BOS|EOS)\]",
    re.IGNORECASE,
)


class InputError(ValueError):
    """A file, argument or configuration that cannot be used.

    The message is one line that says what was expected and what was found. The command line prints
    it on stderr and exits with code 2; Python callers can catch it as a `ValueError`.

    Args:
        line: the message; line breaks, which messages of other packages may have, become spaces.
    """

    def __init__(self, line: str) -> None:
        super().__init__(" ".join(line.splitlines()))


class NotFetchedError(InputError):
    """A bundled model needs a language model that has not been fetched; the message has the command."""


class InputWarning(UserWarning):
    """Something about a file or argument that had to be guessed. The command line prints it as one line on stderr."""


def special_token(text: str) -> str | None:
    """The first part of a text that some language model may read as a special token, or None.

    Special tokens stand for images, masks, roles and ends of turns. Most are written as `<word>`, `</word>`,
    `<|words|>` or `<<WORD>>`; those in square brackets are listed by name. Characters that Unicode counts as compatible
    with others (`NFKC`) are treated as the others, as tokenizers do.
    """
    found = _SPECIAL_TOKEN.search(unicodedata.normalize("NFKC", text))
    return None if found is None else found.group()


def check_settings(config: object, checks: dict[str, bool]) -> None:
    """Raise `InputError` for the first check that does not hold.

    Args:
        config: its attribute of the name before the colon is the value in the error message.
        checks: messages, `name: what is expected`, and whether they hold.
    """
    for message, holds in checks.items():
        if not holds:
            raise InputError(f"{message}, got {getattr(config, message.split(':')[0])!r}")
