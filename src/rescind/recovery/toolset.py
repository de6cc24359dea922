"""What a worker can do: its tools, and how one knows that two programs mean the same by a name.

A signature covers what planning and undoing an action depend on: its effect class and everything else that was declared
of it, and the parameters that its handlers can be given. It covers no code, so that an upgrade of a program which
declares the same goes on with the undos that were begun before it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from rescind.compensation.port import Compensator
from rescind.model.action import Action, EffectClass
from rescind.model.step import canonical_json


@runtime_checkable
class HasFacts(Protocol):
    """A compensator that says more of its declaration than its action does."""

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values; equal for equal declarations."""
        ...


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A declared write of a worker.

    Attributes:
        action: Its name.
        signature: Equal for equal declarations.
        parallel: Whether several may be undone at once: as in `Compensator`, or since nothing is called for them.
    """

    action: str
    signature: str
    parallel: bool = False


def tool_info(compensator: Compensator) -> ToolInfo:
    """What is to be known of this declaration elsewhere."""
    facts = compensator.facts if isinstance(compensator, HasFacts) else {}
    content = [_said(compensator.action), compensator.parallel, facts]
    signature = hashlib.sha256(canonical_json(content)).hexdigest()[:16]
    parallel = compensator.parallel or compensator.action.effect_class is EffectClass.IRREVERSIBLE
    return ToolInfo(action=compensator.action.name, signature=signature, parallel=parallel)


def tool_infos(compensators: Mapping[str, Compensator]) -> tuple[ToolInfo, ...]:
    """The same of all of them, by name."""
    return tuple(tool_info(compensators[name]) for name in sorted(compensators))


def toolset_digest(tools: Iterable[ToolInfo]) -> str:
    """The same for workers that can do the same. It names the queue of their jobs."""
    content = sorted((tool.action, tool.signature) for tool in tools)
    return hashlib.sha256(canonical_json(content)).hexdigest()[:12]


def _said(action: Action) -> dict[str, Any]:
    # Without what was left at its default: a later rescind knows more that can be declared, and the same declaration
    # must go on to mean the same.
    plain: dict[str, Any] = msgspec.to_builtins(action)
    defaults: dict[str, Any] = msgspec.to_builtins(Action(name=action.name, effect_class=action.effect_class))
    return {name: value for name, value in plain.items() if name in _ALWAYS or value != defaults[name]}


_ALWAYS = ("name", "effect_class")
