"""YAML read with its line numbers, and bounded: what cannot be used is refused at its line.

PyYAML's `safe_load` keeps no lines, takes the last of two equal keys in silence, and expands aliases. So the nodes are
read instead: each is visited at most so often and so deep, whatever refers to whatever.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec
import yaml

from rescind.triggers.response import nearest

TEXT_BYTES_MAX = 256 * 1024
"""A policy is written by people. PyYAML reads this much in about three seconds, and a guard waits for it."""

TEXT_LENGTH_MAX = 400
"""Characters of one text of a rule: names and scopes, which messages repeat."""

_NODES_MAX = 20_000  # Far beyond any policy; what aliases multiply ends here.
_DEPTH_MAX = 20
_NUMBER_MAX = 1e15  # Whole numbers up to here are exact in a float, so limits of either type mean the same.

KEY_SHOWN_MAX = 80
"""Characters of a file's own words that a message repeats."""

_NOTHING: Mapping[str, str] = {}


class BadLine(Exception):
    """Something cannot be used. `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.problem = line, problem


class Entry(msgspec.Struct, frozen=True):
    """A key's line, and the node that is its value."""

    line: int
    node: yaml.Node


class Document:
    """One YAML document. Every method raises `BadLine` for what is not as asked for."""

    def __init__(self, data: bytes) -> None:
        """Read it. Raises: BadLine, if it is no YAML, too long or nested too deep."""
        self._visited = 0
        self._loader, self.root = _compose(_decoded(data))

    def mapping(self, node: yaml.Node, what: str) -> dict[str, Entry]:
        """The keys of a mapping, in their order, each once."""
        self._count(node)
        if not isinstance(node, yaml.MappingNode):
            fail(node, f"{what} must hold keys and values, and is {self._shown(node)}")
        found: dict[str, Entry] = {}
        for key_node, value in node.value:
            key = self._key(key_node, what)
            if key in found:
                fail(key_node, f"{what} has the key {key!r} twice, first in line {found[key].line}; keep one of them")
            found[key] = Entry(line_of(key_node), value)
        return found

    def sequence(self, node: yaml.Node, what: str, *, items_max: int) -> list[yaml.Node]:
        """The items of a list."""
        self._count(node)
        if not isinstance(node, yaml.SequenceNode):
            fail(node, f"{what} must be a list, and is {self._shown(node)}")
        if len(node.value) > items_max:
            fail(node, f"{what} has {len(node.value):,} items; at most {items_max:,} are read")
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        """A text that is not empty."""
        value = self.scalar(node, what)
        if not isinstance(value, str):
            fail(node, f"{what} must be text, and is {self._shown(node)}; put it in quotes if it was meant as text")
        if not value.strip():
            fail(node, f"{what} is empty")
        if len(value) > TEXT_LENGTH_MAX:
            fail(node, f"{what} has {len(value):,} characters; at most {TEXT_LENGTH_MAX} are read")
        return value

    def scalar(self, node: yaml.Node, what: str) -> str | int | float | bool | None:
        """A text, a finite number, a truth value, or nothing."""
        self._count(node)
        if not isinstance(node, yaml.ScalarNode):
            fail(node, f"{what} must be one value, and is {self._shown(node)}")
        try:
            value: Any = self._loader.construct_object(node)  # pyright: ignore[reportUnknownMemberType]  # PyYAML's stubs
        except yaml.MarkedYAMLError as error:
            fail(node, f"{what}: {error.problem or error}")
        except Exception as error:  # noqa: BLE001  # PyYAML's constructors fail in many ways: `!!int x`, `2026-99-99`
            fail(node, f"{what} cannot be read ({error}); put it in quotes if it was meant as text")
        if isinstance(value, (int, float)) and not -_NUMBER_MAX <= value <= _NUMBER_MAX:
            fail(node, f"{what} is {node.value[:KEY_SHOWN_MAX]!r}, which is no number that could be meant")
        if not (value is None or isinstance(value, (str, int, float))):
            fail(node, f"{what} is a {type(value).__name__}; put it in quotes if it was meant as text")
        return value

    def value(self, node: yaml.Node, what: str, *, depth: int = 0) -> Any:
        """Whatever it is, as JSON values."""
        if depth > _DEPTH_MAX:
            fail(node, f"{what} is nested deeper than {_DEPTH_MAX} levels, or holds itself")
        if isinstance(node, yaml.MappingNode):
            entries = self.mapping(node, what).items()
            return {key: self.value(each.node, f"{what}.{key}", depth=depth + 1) for key, each in entries}
        if isinstance(node, yaml.SequenceNode):
            items = self.sequence(node, what, items_max=_NODES_MAX)
            return [self.value(item, f"{what}[{index}]", depth=depth + 1) for index, item in enumerate(items)]
        return self.scalar(node, what)

    def _key(self, node: yaml.Node, what: str) -> str:
        if node.tag == "tag:yaml.org,2002:merge":
            fail(node, f"{what} merges with `<<`; write its keys out, so that a reader sees what is in force")
        key = self.scalar(node, f"a key of {what}")
        if not isinstance(key, str):
            fail(node, f"{what} has the key {key!r}, which is no text; put it in quotes")
        return key

    def _count(self, node: yaml.Node) -> None:
        self._visited += 1
        if self._visited > _NODES_MAX:
            fail(node, f"it comes to more than {_NODES_MAX:,} values with its aliases written out; write less")

    def _shown(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.MappingNode):
            return "keys and values"
        if isinstance(node, yaml.SequenceNode):
            return "a list"
        text: str = node.value
        return repr(text if len(text) <= KEY_SHOWN_MAX else text[: KEY_SHOWN_MAX - 1] + "…") if text else "empty"


def line_of(node: yaml.Node) -> int:
    """Where a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def refuse_unknown(
    keys: Mapping[str, Entry], known: tuple[str, ...], prefix: str, *, misplaced: Mapping[str, str] = _NOTHING
) -> None:
    """Refuse keys that nobody reads.

    Args:
        keys: As they were found.
        known: Those that are read.
        prefix: What stands before a key in messages.
        misplaced: What to say of keys that belong elsewhere; a sentence with a blank behind it.

    Raises: BadLine, with the nearest known key.
    """
    for key, entry in keys.items():
        if key not in known:
            shown = (prefix + key)[:KEY_SHOWN_MAX]
            hint = misplaced.get(key) or nearest(key[:KEY_SHOWN_MAX], known)
            raise BadLine(entry.line, f"unknown key {shown!r}; {hint}known are: {', '.join(known)}")


def is_empty(node: yaml.Node) -> bool:
    """Whether nothing stands here, as where all of a section is commented out."""
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def fail(node: yaml.Node, problem: str) -> NoReturn:
    """Refuse what stands here. Raises: BadLine."""
    raise BadLine(line_of(node), problem)


def _decoded(data: bytes) -> str:
    if len(data) > TEXT_BYTES_MAX:
        line = data.count(b"\n", 0, TEXT_BYTES_MAX) + 1
        raise BadLine(line, f"it is longer than {TEXT_BYTES_MAX // 1024} KiB; a policy is short enough to be read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadLine(data.count(b"\n", 0, error.start) + 1, "this is no UTF-8 text") from error


def _compose(text: str) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        return loader, loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BadLine(line, f"this is not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadLine(line, f"this is not YAML: {error.reason}") from error
    except RecursionError:
        line = loader.line + 1 if loader is not None else 1
        raise BadLine(line, "it is nested too deep") from None
