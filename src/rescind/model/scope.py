"""What an order covers.

A scope is a conjunction of terms: `tenant:acme+agent:billing-agent` covers the runs of billing-agent for acme and no
others. No term at all covers everything. A scope is matched against a `Subject`: one run and, when known, one action.
"""

from typing import Self

import msgspec

TERM_KINDS = ("tenant", "agent", "workflow", "run", "tree", "action")

EVERYTHING_WORD = "everything"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an order may concern: a run, seen from its own process.

    `lineage` holds the run's own id and the ids of its ancestors, in any order.
    """

    run_id: str
    agent_name: str
    agent_version: str = ""
    tenant: str = ""
    workflow: str = ""
    lineage: frozenset[str] = frozenset()


class Term(msgspec.Struct, frozen=True, order=True):
    """One condition, such as `agent:billing-agent@2.4.0`. `tree` means a run and its descendants."""

    kind: str
    value: str

    def covers(self, subject: Subject, action: str | None) -> bool:
        """Whether the subject meets this condition. An unknown action (None) meets no `action` term."""
        if self.kind == "agent":
            name, _, version = self.value.partition("@")
            return name == subject.agent_name and (not version or version == subject.agent_version)
        if self.kind == "tenant":
            return self.value == subject.tenant
        if self.kind == "workflow":
            return self.value == subject.workflow
        if self.kind == "run":
            return self.value == subject.run_id
        if self.kind == "tree":
            return self.value == subject.run_id or self.value in subject.lineage
        return self.value == action

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


class Scope(msgspec.Struct, frozen=True):
    """A conjunction of terms, sorted and without repetition, so that equal scopes are equal values."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `everything`, `KIND:VALUE`, or several of the latter joined by `+`.

        Raises: ValueError, which names the place and the nearest known kind.
        """
        text = text.strip()
        if text == EVERYTHING_WORD:
            return cls()
        return cls(tuple(sorted({_parse_term(part.strip(), text) for part in text.split("+")})))

    def covers(self, subject: Subject, action: str | None = None) -> bool:
        """Whether every term covers the subject."""
        return all(term.covers(subject, action) for term in self.terms)

    def may_cover(self, subject: Subject) -> bool:
        """Whether some call of the subject is covered, whichever action the scope is limited to."""
        return all(term.kind == "action" or term.covers(subject, None) for term in self.terms)

    @property
    def actions(self) -> frozenset[str]:
        """The action names this scope is limited to; empty means any action."""
        return frozenset(term.value for term in self.terms if term.kind == "action")

    def __str__(self) -> str:
        return "+".join(str(term) for term in self.terms) or EVERYTHING_WORD


def _parse_term(part: str, whole: str) -> Term:
    kind, colon, value = part.partition(":")
    if not colon or not value or not kind:
        raise ValueError(f"cannot read scope {whole!r} at {part!r}: {_scope_help(kind)}")
    if kind not in TERM_KINDS:
        raise ValueError(f"unknown kind of scope {kind!r} in {whole!r}: {_scope_help(kind)}")
    problem = unnameable(value)
    if problem:
        raise ValueError(f"scope {whole!r} has a value that {problem}: {value!r}")
    name, at, version = value.partition("@")
    if kind == "agent" and (not name or (at and not version)):
        raise ValueError(f"cannot read {part!r}: an agent is `agent:NAME` or `agent:NAME@VERSION`")
    return Term(kind, value)


def unnameable(value: str) -> str:
    """Why no scope could name this value; empty if one can. What nobody can name, nobody can stop."""
    if value != value.strip():
        return "begins or ends with a blank"
    if not value.isprintable():
        return "has a control character"
    return "has a `+`, which joins the terms of a scope" if "+" in value else ""


def _scope_help(kind: str) -> str:
    import difflib  # only who has mistyped needs it, and `rescind stop` is in a hurry

    nearest = difflib.get_close_matches(kind, (*TERM_KINDS, EVERYTHING_WORD), n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    kinds = ", ".join(f"{kind}:…" for kind in TERM_KINDS)
    return f"{hint}a scope is `everything`, or one of {kinds}, or several of these joined by `+`"
