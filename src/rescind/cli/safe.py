"""Hostile text, made harmless at the edge.

A journal holds what agents were told: names, reasons and arguments may carry escape sequences that repaint a terminal,
newlines that forge a line, or marks that reverse its direction. Whatever a person is shown goes through `safe`.
"""

ELLIPSIS = "…"


def safe(value: object) -> str:
    """The value as one line of printable text; everything else is shown as its escape.

    Escaped are control characters, line separators, direction marks, zero-width characters and lone surrogates.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def short(value: object, width: int) -> str:
    """As `safe`, in at most `width` characters, the last of which is then an ellipsis."""
    text = safe(value)
    return text if len(text) <= width else text[: width - 1] + ELLIPSIS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
