"""A policy as YAML, with where each line of it comes from.

What is built in is commented out: the text decides the same when it is read again, and a limit in it that nobody wrote
does not count as one that somebody chose (`Mode.IF_LIMITED`).
"""

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from rescind.cli.safe import safe
from rescind.model.signal import Severity
from rescind.triggers.policy import Limits, Mode, Policy, Rule
from rescind.triggers.policy_sections import DEFAULT_NAME


def lines_of(policy: Policy) -> Iterator[str]:
    """The policy as lines of YAML that are safe to print."""
    yield f"# in force: {safe(policy.source) or 'no file'}, and the {DEFAULT_NAME}, which is commented out here"
    yield f"mode: {policy.mode.value}"
    yield "detect:"
    for name, limits in policy.limits.items():
        yield from _limits(name, limits)
    yield "respond:"
    for rule in policy.rules:
        yield f"  # {safe(rule.origin)}"
        yield f"  - {_flow(_rule(rule))}"
    yield f"  # the {DEFAULT_NAME}, asked after these" if policy.rules else f"  # the {DEFAULT_NAME}"
    for rule in policy.defaults:
        yield f"  # - {_flow(_rule(rule))}"
    yield f"require_approval: {_flow(list(policy.require_approval))}"
    yield f"compensate_on: {_flow(sorted(policy.compensate_on))}"
    for name, section in (("fleet", policy.fleet), ("outage", policy.outage)):
        yield f"{name}: {_flow(msgspec.to_builtins(section))}"


def as_json(policy: Policy) -> dict[str, Any]:
    """The policy as JSON values, each rule with its origin."""
    return {
        "source": policy.source,
        "mode": policy.mode.value,
        "detect": {
            name: None if limits.config is None else msgspec.to_builtins(limits.config)
            for name, limits in policy.limits.items()
        },
        "written": {name: sorted(limits.written) for name, limits in policy.limits.items() if limits.written},
        "respond": [
            {"origin": rule.origin, "mode": rule.mode.value, **_rule(rule), "name": rule.name}
            for rule in (*policy.rules, *policy.defaults)
        ],
        "require_approval": list(policy.require_approval),
        "compensate_on": sorted(policy.compensate_on),
        "fleet": msgspec.to_builtins(policy.fleet),
        "outage": msgspec.to_builtins(policy.outage),
    }


def _limits(name: str, limits: Limits) -> Iterator[str]:
    if limits.config is None:
        yield f"  {name}: off"
        return
    yield f"  {name}:"
    fields = cast("dict[str, Any]", msgspec.to_builtins(limits.config))
    for field, value in fields.items():
        yield f"    {'' if field in limits.written else '# '}{field}: {_flow(value)}"


def _rule(rule: Rule) -> dict[str, Any]:
    is_named = not re.fullmatch(f"(built-in )?{re.escape(rule.signal)}( #[0-9]+)?", rule.name)
    said: dict[str, Any] = {"name": rule.name} if is_named else {}
    said["signal"] = rule.signal
    if rule.severity > Severity.INFO:
        said["severity"] = rule.severity.label
    if rule.scope.terms:
        said["scope"] = str(rule.scope)
    if rule.times > 1:
        said["times"] = rule.times
    if rule.mode is not Mode.ENFORCE:
        said["mode"] = rule.mode.value
    return said | {"then": [str(response) for response in rule.then]}


def _flow(value: Any) -> str:
    # JSON is YAML, and escapes whatever a terminal must not see. `1e+17` would be text to YAML 1.1 without its dot.
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in pairs) + "}"
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # of whatever a limit holds
        return "[" + ", ".join(map(_flow, items)) + "]"
    if isinstance(value, float):
        return f"{value:.1f}" if value.is_integer() else f"{value:.12f}".rstrip("0")
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return safe(json.dumps(value, ensure_ascii=False))  # what `safe` escapes, YAML reads back


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.]*", re.ASCII)
_NO_TEXT = ("on", "off", "yes", "no", "true", "false", "null", "y", "n")  # what YAML 1.1 reads as something else
