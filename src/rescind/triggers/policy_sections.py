"""A policy's sections read from YAML: limits of detectors, approvals, fleet and outage, and the rules."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import yaml

from rescind.config import POLICY_KEY, Config
from rescind.model.signal import SignalKind
from rescind.triggers.fleet import FleetConfig
from rescind.triggers.known import config_type, detector_names, detector_of
from rescind.triggers.marked import KEY_SHOWN_MAX, BadLine, Document, Entry, fail, is_empty, line_of, refuse_unknown
from rescind.triggers.outage import OutageConfig
from rescind.triggers.policy import MAY_COMPENSATE_ON, Limits, Mode, Policy, Rule
from rescind.triggers.policy_rules import BUILT_IN, RuleReader, read_mode

if TYPE_CHECKING:
    from rescind.triggers.baseline import Baseline

APPROVALS_MAX = 200
"""Patterns of actions, each compared with the name of every write."""

DEFAULT_NAME = "built-in policy"
"""What origins call the policy that every other one stands before."""

_SECTIONS = ("mode", "detect", "respond", "require_approval", "compensate_on", "baseline", "fleet", "outage")
_ELSEWHERE = tuple(field.name for field in msgspec.structs.fields(Config))  # what else a `rescind.yaml` holds
_UNDER_POLICY: dict[str, str] = dict.fromkeys(_SECTIONS, "in a rescind.yaml it belongs under `policy:`. ")

S = TypeVar("S", bound=msgspec.Struct)


def read_sections(
    document: Document,
    *,
    name: str,
    built_in: Policy | None,
    before_reading: Callable[[Path], None] = lambda _: None,
) -> Policy:
    """The policy that a document holds, before the built-in rules and on top of the built-in limits.

    Args:
        document: A `rescind.yaml`, a policy by itself, or nothing.
        name: What messages and origins call it.
        built_in: The built-in policy; None while that itself is read.
        before_reading: Called with the baseline that it names, before that is read and whatever comes of it.

    Raises: BadLine.
    """
    return _Reader(document, name, built_in, before_reading).policy()


class _Reader:
    """One file on its way to a policy. Everything raises `BadLine`."""

    def __init__(
        self, document: Document, name: str, built_in: Policy | None, before_reading: Callable[[Path], None]
    ) -> None:
        self._document, self._name, self._before_reading = document, name, before_reading
        self._base: Mapping[str, Limits] = built_in.limits if built_in is not None else {}
        self._defaults: tuple[Rule, ...] = built_in.rules if built_in is not None else ()
        self._rules = RuleReader(document, name, prefix="" if built_in is not None else BUILT_IN)

    def policy(self) -> Policy:
        """The whole policy."""
        sections = self._sections()
        mode = read_mode(self._document, sections["mode"], "mode") if "mode" in sections else Mode.ENFORCE
        if mode is Mode.IF_LIMITED:
            fail(sections["mode"].node, "mode is if_limited, which only a rule can be; write enforce or shadow")
        baseline, baseline_path = self._baseline(sections["baseline"]) if "baseline" in sections else (None, "")
        return Policy(
            rules=self._rules.rules(sections["respond"]) if "respond" in sections else (),
            defaults=self._defaults,
            limits=self._limits(sections.get("detect")),
            mode=mode,
            require_approval=self._approvals(sections["require_approval"]) if "require_approval" in sections else (),
            compensate_on=self._kinds(sections["compensate_on"]) if "compensate_on" in sections else frozenset(),
            fleet=self._struct(sections["fleet"].node, FleetConfig, "fleet") if "fleet" in sections else FleetConfig(),
            outage=self._struct(sections["outage"].node, OutageConfig, "outage")
            if "outage" in sections
            else OutageConfig(),
            baseline=baseline,
            baseline_path=baseline_path,
            source=self._name,
        )

    def _sections(self) -> dict[str, Entry]:
        root = self._document.root
        if root is None or is_empty(root):
            return {}
        keys = self._document.mapping(root, "the file")
        prefix = ""
        if POLICY_KEY in keys or keys.keys() & set(_ELSEWHERE):
            refuse_unknown(keys, (*_ELSEWHERE, POLICY_KEY), "", misplaced=_UNDER_POLICY)
            if POLICY_KEY not in keys or is_empty(keys[POLICY_KEY].node):
                return {}
            keys, prefix = self._document.mapping(keys[POLICY_KEY].node, "policy"), "policy."
        refuse_unknown(keys, _SECTIONS, prefix)
        # A section that is empty, because all of it is commented out, says nothing.
        return {key: entry for key, entry in keys.items() if not is_empty(entry.node)}

    def _limits(self, detect: Entry | None) -> dict[str, Limits]:
        written = self._document.mapping(detect.node, "detect") if detect is not None else {}
        refuse_unknown(written, detector_names(), "detect.", misplaced=_signals_by_detector())
        limits: dict[str, Limits] = {}
        for name in detector_names():
            base = self._base.get(name, Limits(config=config_type(name)()))
            limits[name] = self._limits_of(name, written[name].node, base) if name in written else base
        return limits

    def _limits_of(self, name: str, node: yaml.Node, base: Limits) -> Limits:
        what = f"detect.{name}"
        if isinstance(node, yaml.ScalarNode):
            said = self._document.scalar(node, what)  # YAML reads `off` as a truth value, and 'off' as text
            if said is False or said == "off":
                return Limits(config=None)
            if said is None or said is True or said == "on":
                return base
            fail(node, f"{what} is {str(said)[:KEY_SHOWN_MAX]!r}; write `off`, or limits such as {_example(name)}")
        config = self._struct(node, config_type(name), what, base=base.config)
        return Limits(config=config, written=frozenset(self._document.mapping(node, what)))

    def _struct(self, node: yaml.Node, kind: type[S], what: str, *, base: msgspec.Struct | None = None) -> S:
        keys = self._document.mapping(node, what)
        refuse_unknown(keys, tuple(field.encode_name for field in msgspec.structs.fields(kind)), f"{what}.")
        values = {key: self._document.value(entry.node, f"{what}.{key}") for key, entry in keys.items()}
        known = cast("dict[str, Any]", msgspec.to_builtins(base)) if base is not None else {}
        try:
            return msgspec.convert(known | values, kind)
        except msgspec.ValidationError as error:
            line, problem = _blamed(error, keys, line_of(node))
            raise BadLine(line, f"{what}: {problem}") from error
        except (OverflowError, RecursionError) as error:
            fail(node, f"{what} cannot be used: {error}")

    def _baseline(self, entry: Entry) -> "tuple[Baseline, str]":
        from rescind.triggers.baseline import BaselineError, load  # most policies name none

        path = Path(self._name).parent / self._document.text(entry.node, "baseline")
        self._before_reading(path)
        try:
            return load(path), str(path)
        except BaselineError as error:
            fail(entry.node, f"baseline: {error}")

    def _approvals(self, entry: Entry) -> tuple[str, ...]:
        nodes = self._document.sequence(entry.node, "require_approval", items_max=APPROVALS_MAX)
        found: list[str] = []
        for node in nodes:
            pattern = self._document.text(node, "require_approval").strip()
            if not pattern.isprintable() or " " in pattern:
                fail(node, f"require_approval: {pattern!r} is no pattern of actions; write such as 'payment.*'")
            found.append(pattern)
        return tuple(found)

    def _kinds(self, entry: Entry) -> frozenset[SignalKind]:
        found: set[SignalKind] = set()
        for node in self._document.sequence(entry.node, "compensate_on", items_max=len(SignalKind)):
            name = self._document.text(node, "compensate_on").strip()
            if name not in (kind.value for kind in MAY_COMPENSATE_ON):
                may = ", ".join(kind.value for kind in MAY_COMPENSATE_ON)
                fail(node, f"compensate_on: {name[:KEY_SHOWN_MAX]!r} never starts an undo by itself; these may: {may}")
            found.add(SignalKind(name))
        return frozenset(found)


def _blamed(error: msgspec.ValidationError, keys: Mapping[str, Entry], line: int) -> tuple[int, str]:
    """The line and the words of what msgspec found: it says `… - at `$.field``, or what `__post_init__` said."""
    text, _, path = str(error).partition(" - at `$")
    name = re.match(r"\.?([A-Za-z_]\w*)", path) or re.match(r"([A-Za-z_]\w*)\b", text)
    if name is None or name[1] not in keys:
        return line, text
    return keys[name[1]].line, text if text.startswith(name[1]) else f"{name[1]}: {text[:1].lower()}{text[1:]}"


def _example(name: str) -> str:
    fields = msgspec.structs.fields(config_type(name))
    config = config_type(name)()
    shown = [f"{field.name}: {getattr(config, field.name)}" for field in fields[:1]]
    return f"{{{', '.join(shown)}}}"


def _signals_by_detector() -> dict[str, str]:
    names = {kind.value: detector_of(kind) for kind in SignalKind}
    return {kind: f"its limits are those of {name!r}. " for kind, name in names.items() if name and name != kind}
