"""What users are shown instead of an answer: chosen here, encoded at the edges.

The most specific template that matches wins: `agent@version` before `agent`, then `workflow`, then `level`, then the
texts for everybody, then our own words. What a template leaves out comes from the texts for everybody.

An order's reason is written for operators. Users are shown only the part that is marked for them, and only where a
template asks for it with `{reason}`:

    rescind stop agent:billing-agent --reason "INC-7, wrong VAT || users: we are correcting prices"
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from rescind.config import FallbackConfig, FallbackTemplate
from rescind.errors import RunHalted
from rescind.model.level import Level
from rescind.model.order import Order, covering
from rescind.model.scope import Subject
from rescind.model.template import Template

REASON_MAX = 300
"""Characters of a reason that users are shown. It is one sentence in the middle of another."""

_FOR_USERS = re.compile(r"\|\|\s*users\s*:", re.IGNORECASE)

_OUR_WORDS = {
    Level.SUPERVISED: "Changes need a person's approval at the moment. Please try again later.",
    Level.READ_ONLY: "Changes are paused at the moment. Please try again later.",
    Level.PAUSED: "The assistant is paused at the moment. Please try again later.",
    Level.HALTED: "The assistant was stopped by an operator. Nothing more will be changed. Please try again later.",
}

FALLBACK = _OUR_WORDS[Level.HALTED]
"""What users are shown for a halted run, unless the configuration or the run has a text of its own."""


class Fallback(msgspec.Struct, frozen=True):
    """What one user is shown. Nothing in it is encoded yet.

    Attributes:
        text: For people.
        json: For programs; JSON values.
        retry_after_s: When asking again may help, in whole seconds.
        lang: The language of the text, as HTML names it.
    """

    text: str
    json: dict[str, Any]
    retry_after_s: int = 30
    lang: str = "en"


class _Case(msgspec.Struct, frozen=True):
    """A template of the configuration, taken apart. Strings in `json` are templates."""

    agent_name: str
    agent_version: str
    workflow: str
    level: Level | None
    text: Template | None
    json: dict[str, Any] | None
    retry_after_s: int | None

    @property
    def weight(self) -> tuple[bool, bool, bool, bool]:
        """How specific it is; no two that match the same run have the same."""
        return bool(self.agent_version), bool(self.agent_name), bool(self.workflow), self.level is not None

    def matches(self, agent: str, workflow: str, level: Level) -> bool:
        name, _, version = agent.partition("@")
        return (
            (not self.agent_name or self.agent_name == name)
            and (not self.agent_version or self.agent_version == version)
            and (not self.workflow or self.workflow == workflow)
            and (self.level is None or self.level is level)
        )


class Fallbacks(msgspec.Struct, frozen=True):
    """All that users may be shown, compiled once. Without anything given: our own words."""

    text: Template | None = None
    retry_after_s: int = 30
    lang: str = "en"
    cases: tuple[_Case, ...] = ()

    @classmethod
    def of(cls, config: FallbackConfig) -> Self:
        """As `rescind.yaml` says, which is `load_settings().fallback`."""
        cases = sorted(map(_case, config.templates), key=lambda case: case.weight, reverse=True)
        text = Template.parse(config.text) if config.text.strip() else None
        return cls(text, config.retry_after_s, config.lang, tuple(cases))

    @classmethod
    def saying(cls, text: str) -> Self:
        """One text for everybody, from a program: its braces mean nothing."""
        return cls(Template.plain(text))

    def choose(self, *, agent: str, workflow: str, level: Level, reason: str, text: str | None = None) -> Fallback:
        """What to show to the user of a run that is held at `level`.

        Args:
            agent: `name@version`, or `name`; empty if nobody knows.
            workflow: The class of task; empty if nobody knows.
            level: How far it is held back.
            reason: The order's reason as it is. Of it, users see what `public_reason` says.
            text: What the run itself wants to have said; it comes before every template, and its braces mean nothing.
        """
        case = next((each for each in self.cases if each.matches(agent, workflow, level)), None)
        retry_after_s = (case and case.retry_after_s) or self.retry_after_s
        values = {
            "reason": public_reason(reason),
            "agent": agent.partition("@")[0],
            "level": level.label,
            "retry_after_s": str(retry_after_s),
        }
        template = (case and case.text) or self.text
        shown = text or (template.fill(values).strip() if template else "") or _OUR_WORDS.get(level, FALLBACK)
        if text is None and case is not None and case.json is not None:
            return Fallback(shown, _filled(case.json, values), retry_after_s, self.lang)
        return Fallback(shown, plain_json(shown, level=level, retry_after_s=retry_after_s), retry_after_s, self.lang)

    def choose_for(
        self, orders: Iterable[Order], *, agent: str, workflow: str, level: Level, text: str | None = None
    ) -> Fallback:
        """The same, for a run that is held by these orders: the first reason that is marked for users counts."""
        reasons = (order.reason for order in orders if order.level is level and public_reason(order.reason))
        return self.choose(agent=agent, workflow=workflow, level=level, reason=next(reasons, ""), text=text)


OUR_WORDS = Fallbacks()
"""What users are shown where nothing was configured."""


def public_reason(reason: str) -> str:
    """The part of an order's reason that is meant for users: what stands after the last `|| users:`, on one line.

    Without that mark nothing is: an operator who is in a hurry names customers and incidents.
    """
    marks = list(_FOR_USERS.finditer(reason))
    if not marks:
        return ""
    printable = "".join(c if c.isprintable() else " " for c in reason[marks[-1].end() :])
    words = " ".join(printable.split())
    return words if len(words) <= REASON_MAX else words[: REASON_MAX - 1].rstrip() + "…"


def reason_with(internal: str, for_users: str) -> str:
    """One reason of both parts, as an order keeps it."""
    return f"{internal} || users: {for_users}".strip() if for_users else internal


def plain_json(text: str, *, level: Level, retry_after_s: int) -> dict[str, Any]:
    """The JSON form of a text that has none of its own."""
    said = {"type": "agent_paused", "message": text, "level": level.label, "retry_after_s": retry_after_s}
    return {"error": said}


class Held(msgspec.Struct, frozen=True):
    """How far somebody is held back now, and by which orders: all that cover them, the most severe first."""

    level: Level = Level.NORMAL
    orders: tuple[Order, ...] = ()


def held_by(standing: Iterable[Order], subject: Subject) -> Held:
    """How these orders hold a subject. Orders for single runs or actions hold nobody whose run is not known."""
    orders = tuple(sorted(covering(standing, subject), key=lambda order: -order.level))
    return Held(orders[0].level, orders) if orders else Held()


def halted(
    message: str, shown: Fallback, *, run_id: str, order_ids: Sequence[str], kind: type[RunHalted] = RunHalted
) -> RunHalted:
    """The error of a halted run, with what its user is to be shown."""
    return kind(
        message,
        fallback=shown.text,
        run_id=run_id,
        order_ids=order_ids,
        fallback_json=shown.json,
        retry_after_s=shown.retry_after_s,
    )


def _case(template: FallbackTemplate) -> _Case:
    name, _, version = template.agent.partition("@")
    return _Case(
        agent_name=name,
        agent_version=version,
        workflow=template.workflow,
        level=Level.parse(template.level) if template.level else None,
        text=Template.parse(template.text) if template.text.strip() else None,
        json=None if template.json is None else _parsed(template.json),
        retry_after_s=template.retry_after_s,
    )


def _parsed(value: Any) -> Any:
    return _with_leaves(value, lambda leaf: Template.parse(leaf) if isinstance(leaf, str) else leaf)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    return _with_leaves(value, lambda leaf: leaf.fill(values) if isinstance(leaf, Template) else leaf)


def _with_leaves(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if hasattr(value, "items"):
        return {key: _with_leaves(inner, leaf) for key, inner in value.items()}
    if hasattr(value, "append"):
        return [_with_leaves(inner, leaf) for inner in value]
    return leaf(value)
