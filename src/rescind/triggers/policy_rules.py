"""`respond:`: rules read from a policy, each with the line it stands in."""

import re
from typing import Any

import yaml

from rescind.model.scope import Scope, unnameable
from rescind.model.signal import Severity, SignalKind
from rescind.triggers.known import detector_names, detector_of, rules_of
from rescind.triggers.marked import Document, Entry, fail, line_of, refuse_unknown
from rescind.triggers.policy import EVERY_SIGNAL, Mode, Rule
from rescind.triggers.response import Response, nearest

RULES_MAX = 200
"""Rules are asked one after the other, by a guard whose run waits."""

RESPONSES_MAX = 10
"""Responses of one rule. There are few more verbs."""

BUILT_IN = "built-in "
"""What the names of the built-in rules begin with, and no others."""

_NAME_MAX = 80
_TIMES_MAX = 1000
_FIELDS = ("name", "signal", "severity", "scope", "times", "mode", "then")
_KINDS = tuple(kind.value for kind in SignalKind)


class RuleReader:
    """Reads the rules of one file. Everything raises `BadLine`."""

    def __init__(self, document: Document, name: str, *, prefix: str = "") -> None:
        """Read rules of this document.

        Args:
            document: The file.
            name: What messages and origins call it.
            prefix: What the names of its rules begin with, unless they say otherwise.
        """
        self._document, self._name, self._prefix = document, name, prefix
        self._names: set[str] = set()

    def rules(self, respond: Entry) -> tuple[Rule, ...]:
        """All rules, in their order."""
        nodes = self._document.sequence(respond.node, "respond", items_max=RULES_MAX)
        return tuple(self._rule(node, f"respond[{index}]") for index, node in enumerate(nodes))

    def _rule(self, node: yaml.Node, what: str) -> Rule:
        keys = self._document.mapping(node, what)
        refuse_unknown(keys, _FIELDS, f"{what}.")
        for needed in ("signal", "then"):
            if needed not in keys:
                fail(node, f"{what} has no {needed!r}; a rule needs a signal and what to do then")
        signal = self._signal(keys["signal"].node, f"{what}.signal")
        return Rule(
            name=self._rule_name(keys.get("name"), signal, what),
            signal=signal,
            severity=self._parsed(keys.get("severity"), f"{what}.severity", Severity.parse, Severity.INFO),
            scope=self._parsed(keys.get("scope"), f"{what}.scope", Scope.parse, Scope()),
            times=self._times(keys["times"].node, f"{what}.times") if "times" in keys else 1,
            mode=read_mode(self._document, keys["mode"], f"{what}.mode") if "mode" in keys else Mode.ENFORCE,
            then=self._responses(keys["then"].node, f"{what}.then"),
            origin=f"{self._name}, line {line_of(node)}",
        )

    def _signal(self, node: yaml.Node, what: str) -> str:
        text = self._document.text(node, what).strip()
        if text == EVERY_SIGNAL:
            return text
        kind_name, dot, rule = text.partition(".")
        if kind_name not in _KINDS:
            if kind_name in detector_names():
                kinds_of = [kind.value for kind in SignalKind if detector_of(kind) == kind_name]
                fail(node, f"{what}: {kind_name} is a detector; its signals are: {', '.join(kinds_of)}")
            fail(node, f"{what}: unknown signal {text!r}; {nearest(kind_name, _KINDS)}known are: {', '.join(_KINDS)}")
        known = rules_of(SignalKind(kind_name))
        if dot and known and rule not in known:
            hint = nearest(rule, known)
            fail(node, f"{what}: {kind_name} has no rule {rule!r}; {hint}it has: {', '.join(known)}")
        if dot and not re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", rule):
            fail(node, f"{what}: {text!r} names no rule; write {kind_name}, or {kind_name}.RULE")
        return text

    def _rule_name(self, entry: Entry | None, signal: str, what: str) -> str:
        if entry is None:
            numbered = (f" #{count}" if count > 1 else "" for count in range(1, 2 * RULES_MAX))
            name = next(name for number in numbered if (name := self._prefix + signal + number) not in self._names)
            self._names.add(name)
            return name
        name = self._document.text(entry.node, f"{what}.name")
        if unnameable(name) or len(name) > _NAME_MAX:
            fail(entry.node, f"{what}.name must be one short line, at most {_NAME_MAX} characters and without `+`")
        if name.startswith(BUILT_IN) and not self._prefix:
            fail(entry.node, f"{what}.name begins with {BUILT_IN!r}, which is kept for the rules that are built in")
        if name in self._names:
            fail(entry.node, f"{what}.name {name!r} is used twice; orders say by it which rule placed them")
        self._names.add(name)
        return name

    def _responses(self, node: yaml.Node, what: str) -> tuple[Response, ...]:
        if isinstance(node, yaml.SequenceNode):
            items = self._document.sequence(node, what, items_max=RESPONSES_MAX)
            if not items:
                fail(node, f"{what} is empty; to do nothing, write `report`")
        else:
            items = [node]
        return tuple(self._parsed_node(item, what, Response.parse) for item in items)

    def _times(self, node: yaml.Node, what: str) -> int:
        times = self._document.scalar(node, what)
        if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= _TIMES_MAX:
            fail(node, f"{what} is {times!r}; it must be a whole number from 1 to {_TIMES_MAX}")
        return times

    def _parsed(self, entry: Entry | None, what: str, parse: Any, otherwise: Any) -> Any:
        return otherwise if entry is None else self._parsed_node(entry.node, what, parse)

    def _parsed_node(self, node: yaml.Node, what: str, parse: Any) -> Any:
        text = self._document.text(node, what)
        try:
            return parse(text)
        except ValueError as error:
            fail(node, f"{what}: {error}")


def read_mode(document: Document, entry: Entry, what: str) -> Mode:
    """A mode. Raises: BadLine."""
    text = document.text(entry.node, what)
    try:
        return Mode(text)
    except ValueError:
        known = tuple(mode.value for mode in Mode)
        fail(entry.node, f"{what}: unknown mode {text!r}; {nearest(text, known)}known are: {', '.join(known)}")
