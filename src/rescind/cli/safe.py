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


def columns_of(text: str) -> int:
    """How many columns a terminal gives to this safe text: two to wide characters, none to those that combine."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def middle(value: object, columns: int) -> str:
    """As `safe`, in at most so many columns; what does not fit is left out in the middle, for an ellipsis.

    The two ends of a name are what tells it from its neighbours: where it lies, and which it is.
    """
    text = safe(value)
    if columns_of(text) <= columns:
        return text
    left = (columns - 1) // 2
    head = _fitting(text, left)
    tail = _fitting(text[::-1], columns - 1 - left)[::-1]
    return f"{head}{ELLIPSIS}{tail}"


def _fitting(text: str, columns: int) -> str:
    """As much of the beginning as fits."""
    taken = 0
    for number, each in enumerate(text):
        taken += columns_of(each)
        if taken > columns:
            return text[:number]
    return text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
