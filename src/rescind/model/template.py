"""Texts with placeholders: `Refunds are paused: {reason}`.

Only the names in `PLACEHOLDERS` may stand in braces, nothing can be reached through them, and what is put in is never
read as a template again. `{{` and `}}` are braces. A placeholder without a value goes, and takes along what only led up
to it: without a reason, the text above is `Refunds are paused.`
"""

import re
from collections.abc import Mapping
from typing import Self

import msgspec

PLACEHOLDERS = ("reason", "agent", "level", "retry_after_s")

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_LEADING_UP = re.compile(r"[\s:,;–—-]+\Z")  # noqa: RUF001  # the dashes that people type
_SENTENCE_END = (".", "!", "?", "…", "。")
_PUNCTUATION = ".,;:!?…。)]}'\"”»"
_CLOSING = {"(": ")", "[": "]", '"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "‘": "’"}  # noqa: RUF001


class Placeholder(msgspec.Struct, frozen=True):
    """A place for a value."""

    name: str


class Template(msgspec.Struct, frozen=True):
    """A text, taken apart once."""

    parts: tuple[str | Placeholder, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a text apart.

        Raises: ValueError, for a placeholder that is not known, or a brace that belongs to none.
        """
        parts: list[str | Placeholder] = []
        at = 0
        for token in _TOKEN.finditer(text):
            parts.append(text[at : token.start()])
            parts.append(_part(token))
            at = token.end()
        return cls((*parts, text[at:]))

    @classmethod
    def plain(cls, text: str) -> Self:
        """A text in which braces mean nothing."""
        return cls((text,))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with these values; a missing or empty one is left out, as the module says."""
        text, left_out = "", False
        for index, part in enumerate(self.parts):
            piece = part if isinstance(part, str) else self._fitting(values.get(part.name, ""), index)
            if not piece or (left_out and piece.isspace()):
                left_out = left_out or isinstance(part, Placeholder)
                continue
            text, left_out = _without(text, piece) if left_out else text + piece, False
        return _without(text, "") if left_out else text

    def _fitting(self, value: str, index: int) -> str:
        # "{reason}." with a reason that ends with a full stop must not end with two.
        following = self.parts[index + 1] if index + 1 < len(self.parts) else ""
        ends = isinstance(following, str) and following.startswith(tuple(_PUNCTUATION))
        return value.rstrip(".") if ends else value


def _part(token: re.Match[str]) -> str | Placeholder:
    text, name = token.group(), token.group(1)
    if text in ("{{", "}}"):
        return text[0]
    if name in PLACEHOLDERS:
        return Placeholder(name)
    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
    if name is None:
        raise ValueError(f"a single {text} stands for nothing; write {text}{text} for a brace, or one of {known}")
    raise ValueError(f"{text} is no placeholder; known are {known}, and {{{{ is a brace")


def _without(before: str, after: str) -> str:
    """The two sides of a placeholder that has no value, as one text."""
    opening = before[-1:]
    if opening and after.startswith(_CLOSING.get(opening, "\0")):
        before, after = before[:-1], after[1:]
    led_up = _LEADING_UP.search(before)
    separator = led_up.group() if led_up else ""
    before, rest = before.removesuffix(separator), after.lstrip()
    led_up_by_mark = bool(separator.strip()) and not before.endswith(_SENTENCE_END)
    if not before:
        return rest.lstrip(_PUNCTUATION + " ")
    if not rest:
        return before + ("." if led_up_by_mark else "")
    if rest[0] in _PUNCTUATION:
        return before + rest
    ends_sentence = led_up_by_mark and not rest[0].islower()
    return before + ("." if ends_sentence else "") + _gap(separator, after) + rest


def _gap(before: str, after: str) -> str:
    blanks = (before, after[: len(after) - len(after.lstrip())])
    breaks = max(blank.count("\n") for blank in blanks)
    return "\n" * min(breaks, 2) or " "
