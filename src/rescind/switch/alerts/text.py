"""Hostile text in alerts, made harmless.

A reason holds whatever somebody typed, or what an agent was talked into. In an alert it must neither forge a line, nor
repaint a terminal, nor call a whole company to its phones.
"""

import re

ELLIPSIS = "…"

_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all|room|team)\b)|(?<=<)(?=[@!#])", re.IGNORECASE)


def line_of(value: object, length_max: int = 2_000) -> str:
    """The value as one line of printable text, in at most so many characters; what is not printable is escaped.

    Escaped are control characters, line separators, direction marks, zero-width characters and lone surrogates.
    """
    text = str(value)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _escape(character) for character in text)
    return text if len(text) <= length_max else text[: length_max - 1] + ELLIPSIS


def without_mentions(text: str) -> str:
    """The text with a blank in what chat services take for a call to everybody: `@everyone`, `<!channel>`, `<@U1>`."""
    return _MENTION.sub(lambda match: match.group() + " ", text)


def encodable(text: str) -> str:
    """The text as it is, but for lone surrogates, which have no form in UTF-8 and are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
