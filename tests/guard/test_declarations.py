"""What is declared wrongly is refused when it is declared, or before the first run, with the remedy."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import rescind
from builders import a_guard
from rescind.compensation.effects import MappingKey
from rescind.errors import DeclarationError
from rescind.guard.declare import GuardedWrite
from rescind.guard.guard import Guard


def plain(guard: Guard, **options: Any) -> GuardedWrite[..., None]:
    @guard.write("invoice.void", **options)
    def void(invoice_id: str) -> None: ...

    return void


def test_a_write_without_an_effect_class_is_refused_with_the_three_choices() -> None:
    guard = a_guard()
    plain(guard)

    with pytest.raises(DeclarationError) as caught:
        guard.run("billing@1").__enter__()
    for choice in ("reversible", "compensatable", "irreversible", "@void.restore", "@void.compensate", "test_decl"):
        assert choice in str(caught.value)


def test_one_name_belongs_to_one_action() -> None:
    guard = a_guard()
    plain(guard, irreversible="a test")
    with pytest.raises(DeclarationError, match=r"declared twice.*test_declarations\.py"):
        guard.read("invoice.void")(lambda: None)


@pytest.mark.parametrize("second", ["restore", "compensate", "snapshot"])
def test_an_irreversible_write_has_no_other_way(second: str) -> None:
    void = plain(a_guard(), irreversible="a mail cannot be unsent")
    with pytest.raises(DeclarationError, match="irreversible"):
        getattr(void, second)(lambda step: None)


def test_irreversible_needs_its_reason() -> None:
    guard = a_guard()
    plain(guard, irreversible=" ")
    with pytest.raises(DeclarationError, match="reason"):
        guard.check()


def test_restore_and_compensate_exclude_each_other() -> None:
    void = plain(a_guard())
    void.restore(lambda step: None)
    with pytest.raises(DeclarationError, match="already says"):
        void.compensate(lambda step: None)


def test_restore_needs_a_snapshot() -> None:
    guard = a_guard()
    plain(guard).restore(lambda step: None)
    with pytest.raises(DeclarationError, match=r"no \.snapshot"):
        guard.check()


def test_a_ready_made_effect_leaves_nothing_to_declare() -> None:
    guard = a_guard()
    void = plain(guard, effect=MappingKey({}, key=lambda invoice_id: invoice_id))
    guard.check()
    with pytest.raises(DeclarationError, match="effect="):
        void.restore(lambda step: None)


def test_a_generator_is_no_tool() -> None:
    with pytest.raises(DeclarationError, match="generator"):

        @a_guard().write("rows.stream", irreversible="a test")
        def stream() -> Iterator[int]:
            yield 1


def test_redact_names_parameters() -> None:
    with pytest.raises(DeclarationError, match="'card'"):
        plain(a_guard(), redact=["card"], irreversible="a test")


@pytest.mark.parametrize("name", ["", " padded ", "two\nlines"])
def test_names_are_printable(name: str) -> None:
    with pytest.raises(DeclarationError, match="printable"):
        a_guard().write(name, irreversible="a test")(lambda: None)


@pytest.mark.parametrize("agent", ["", "@1", "billing@", "two words@1"])
def test_agents_are_name_at_version(agent: str) -> None:
    with pytest.raises(rescind.UsageError, match="NAME@VERSION"):
        a_guard().run(agent)


@pytest.mark.parametrize("value", [" acme", "a+b", "two\nlines"])
@pytest.mark.parametrize("attribute", ["tenant", "workflow", "run_id"])
def test_what_no_scope_could_name_is_refused(attribute: str, value: str) -> None:
    with pytest.raises(rescind.UsageError, match=attribute):
        a_guard().run("billing@1", **{attribute: value})  # type: ignore[arg-type]  # the attribute varies


def test_an_allowlist_names_declared_actions() -> None:
    with pytest.raises(rescind.UsageError, match=r"invoice\.viod"):
        a_guard().run("billing@1", allow=["invoice.viod"])


def test_a_synchronous_tool_takes_no_asynchronous_handler() -> None:
    guard = a_guard()
    void = plain(guard)

    @void.snapshot
    async def _(invoice_id: str) -> None: ...

    @void.restore
    async def _(step: rescind.PastStep) -> None: ...

    with pytest.raises(DeclarationError, match="both async or neither"):
        guard.run("billing@1").__enter__()


def test_a_policy_is_one_of_four() -> None:
    with pytest.raises(DeclarationError, match="on_conflict='overwrite' is none of review, skip, force, merge"):
        plain(a_guard(), on_conflict="overwrite")


def test_a_policy_is_about_what_is_restored() -> None:
    guard = a_guard()
    plain(guard, on_conflict="skip").compensate(lambda step: None)
    with pytest.raises(DeclarationError, match="it is compensatable; drop it"):
        guard.check()


@pytest.mark.parametrize(("policy", "missing"), [("merge", "@void.merge"), ("skip", 'on_conflict="merge"')])
def test_a_merge_takes_both_the_policy_and_the_function(policy: str, missing: str) -> None:
    guard = a_guard()
    void = plain(guard, effect=MappingKey({}, key=lambda invoice_id: invoice_id), on_conflict=policy)
    if policy != "merge":
        void.merge(lambda step, now: now)
    with pytest.raises(DeclarationError, match=f"belong together; add {missing}"):
        guard.check()


def test_a_probe_of_compensations_takes_a_compensation() -> None:
    guard = a_guard()
    plain(guard, irreversible="a test").probe(compensations=True)(lambda step: True)
    with pytest.raises(DeclarationError, match=r"is about a \.compensate"):
        guard.check()


@pytest.mark.parametrize("what", ["probe", "merge"])
def test_two_of_one_kind_are_one_too_many(what: str) -> None:
    void = plain(a_guard())
    getattr(void, what)(lambda step: True)
    with pytest.raises(DeclarationError, match=f"has two .{what} handlers"):
        getattr(void, what)(lambda step: True)


def test_time_does_not_run_backwards() -> None:
    guard = a_guard()
    plain(guard, irreversible="a test", in_doubt_after=timedelta(seconds=-1))
    with pytest.raises(DeclarationError, match="is negative"):
        guard.check()


def test_a_synchronous_tool_has_no_asynchronous_probe() -> None:
    guard = a_guard()

    async def ask(step: Any) -> bool:
        return True

    plain(guard, irreversible="a test").probe(ask)
    with pytest.raises(DeclarationError, match="asynchronous handler"):
        guard.check()
