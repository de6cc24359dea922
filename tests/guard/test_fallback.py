"""What users are shown: which template wins, what of a reason is theirs, and what a configuration may not say."""

import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, a_guard, an_order
from rescind.config import FallbackConfig, load_settings
from rescind.errors import ConfigError, RunHalted
from rescind.guard.fallback import (
    FALLBACK,
    REASON_MAX,
    Fallbacks,
    held_by,
    public_reason,
    reason_with,
)
from rescind.guard.guard import Guard
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope, Subject
from rescind.model.template import PLACEHOLDERS, Template

FILE = """
fallback:
  text: "The assistant is paused. Please call +1 555."
  retry_after_s: 60
  templates:
    - {level: read_only, text: by level}
    - {workflow: refunds, text: by workflow}
    - {workflow: refunds, level: paused, text: by workflow and level}
    - {agent: billing-agent, text: by agent}
    - {agent: billing-agent, workflow: refunds, text: by agent and workflow}
    - {agent: billing-agent@2.4.0, text: by version}
    - {agent: billing-agent@2.4.0, level: halted, text: by version and level, retry_after_s: 5}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESCIND_STORE", raising=False)
    return tmp_path


def fallbacks(folder: Path, text: str) -> Fallbacks:
    (folder / "rescind.yaml").write_text(text, encoding="utf-8")
    return Fallbacks.of(load_settings().fallback)


@pytest.mark.parametrize(
    ("agent", "workflow", "level", "text"),
    [
        ("billing-agent@2.4.0", "refunds", Level.HALTED, "by version and level"),
        ("billing-agent@2.4.0", "refunds", Level.PAUSED, "by version"),
        ("billing-agent@2.4.0", "", Level.READ_ONLY, "by version"),
        ("billing-agent@2.5.0", "refunds", Level.HALTED, "by agent and workflow"),
        ("billing-agent", "refunds", Level.PAUSED, "by agent and workflow"),
        ("billing-agent@2.5.0", "orders", Level.READ_ONLY, "by agent"),
        ("mail-agent@1", "refunds", Level.PAUSED, "by workflow and level"),
        ("mail-agent@1", "refunds", Level.HALTED, "by workflow"),
        ("", "refunds", Level.READ_ONLY, "by workflow"),
        ("mail-agent@1", "orders", Level.READ_ONLY, "by level"),
        ("mail-agent@1", "orders", Level.HALTED, "The assistant is paused. Please call +1 555."),
        ("", "", Level.PAUSED, "The assistant is paused. Please call +1 555."),
    ],
)
def test_the_most_specific_template_wins_version_before_agent_before_workflow_before_level(
    folder: Path, agent: str, workflow: str, level: Level, text: str
) -> None:
    chosen = fallbacks(folder, FILE).choose(agent=agent, workflow=workflow, level=level, reason="")

    assert chosen.text == text


def test_the_place_in_the_file_does_not_matter(folder: Path) -> None:
    config = load_settings(_written(folder, FILE)).fallback
    reversed_ = msgspec.structs.replace(config, templates=config.templates[::-1])

    assert Fallbacks.of(config) == Fallbacks.of(reversed_)


def _written(folder: Path, text: str) -> Path:
    (folder / "rescind.yaml").write_text(text, encoding="utf-8")
    return folder / "rescind.yaml"


def test_what_a_template_leaves_out_comes_from_the_texts_for_everybody(folder: Path) -> None:
    several = fallbacks(
        folder,
        'fallback: {text: "Call us.", retry_after_s: 60, lang: de, templates: [{agent: a, json: {code: paused}}]}',
    )

    chosen = several.choose(agent="a@1", workflow="", level=Level.HALTED, reason="")

    assert (chosen.text, chosen.json, chosen.retry_after_s, chosen.lang) == ("Call us.", {"code": "paused"}, 60, "de")


def test_the_short_form_is_the_text_for_everybody(folder: Path) -> None:
    chosen = fallbacks(folder, 'fallback: "Call us."').choose(agent="", workflow="", level=Level.HALTED, reason="")

    assert chosen.text == "Call us."
    assert chosen.json["error"]["message"] == "Call us."
    assert load_settings().config.fallback == "Call us."


@pytest.mark.parametrize("text", ["store: here\n", "", "fallback: {retry_after_s: 9}\n", "fallback:\n"])
def test_without_a_text_our_own_words_fit_the_level(folder: Path, text: str) -> None:
    own = fallbacks(folder, text)
    shown = {level: own.choose(agent="a", workflow="", level=level, reason="").text for level in Level}

    assert shown[Level.HALTED] == FALLBACK
    assert len({shown[level] for level in Level if level > Level.NORMAL}) == 4
    assert load_settings().config.fallback is None


def test_json_templates_are_filled_in_every_string_and_nowhere_else(folder: Path) -> None:
    several = fallbacks(
        folder,
        "fallback: {templates: [{json: {code: paused, n: 3, none: null,"
        ' "{key}": ["{level} {agent}", {deep: "in {retry_after_s} s: {reason}"}]}}]}',
    )

    chosen = several.choose(agent="a@1", workflow="", level=Level.PAUSED, reason='x || users: "{agent}" <b>')

    assert chosen.json == {
        "code": "paused",
        "n": 3,
        "none": None,
        "{key}": ["paused a", {"deep": 'in 30 s: "{agent}" <b>'}],
    }
    assert several.choose(agent="b", workflow="", level=Level.PAUSED, reason="").json["{key}"][1] == {
        "deep": "in 30 s."
    }


def test_a_run_that_has_a_text_of_its_own_shows_that(folder: Path) -> None:
    several = fallbacks(folder, "fallback: {templates: [{text: other, json: {other: 1}}]}")
    chosen = several.choose(agent="a", workflow="", level=Level.HALTED, reason="", text="Ask {me}.")

    assert chosen.text == chosen.json["error"]["message"] == "Ask {me}."


# --- reasons ---


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("", ""),
        ("customer Miller's key has leaked", ""),
        ("disk full || it fails on b too", ""),
        ("users: everybody", ""),
        ("INC-7 || users: we are correcting prices", "we are correcting prices"),
        ("INC-7||USERS:we are correcting prices ", "we are correcting prices"),
        ("|| users: we are correcting prices", "we are correcting prices"),
        ("a || users: internal after all || users: this", "this"),
        ("INC-7 || users:", ""),
        ("a || users: two\nlines\x1b[31m\u202e", "two lines [31m"),
    ],
)
def test_of_a_reason_users_see_what_is_marked_for_them(reason: str, shown: str) -> None:
    assert public_reason(reason) == shown


@given(st.text(), st.text())
def test_a_reason_is_printable_short_and_never_holds_what_stands_before_the_last_mark(before: str, after: str) -> None:
    shown = public_reason(f"{before} || users: {after}")

    assert len(shown) <= REASON_MAX
    assert shown == "" or shown.isprintable()
    assert shown == public_reason(f"|| users: {after}")


def test_the_two_parts_of_a_reason_come_apart_again() -> None:
    assert public_reason(reason_with("INC-7", "we are correcting prices")) == "we are correcting prices"
    assert reason_with("INC-7", "") == "INC-7"


@pytest.mark.parametrize(
    ("template", "without"),
    [
        ("Refunds are paused: {reason}", "Refunds are paused."),
        ("Refunds are paused: {reason}.", "Refunds are paused."),
        ("Refunds are paused ({reason}). Call us.", "Refunds are paused. Call us."),
        ("Refunds are paused: {reason} Please call.", "Refunds are paused. Please call."),
        ("Refunds are paused — {reason}", "Refunds are paused."),
        ("Refunds are paused, {reason}, since noon", "Refunds are paused, since noon"),
        ("Refunds are paused.\n\n{reason}\n\nCall us", "Refunds are paused.\n\nCall us"),
        ("{reason} Please call.", "Please call."),
        ("{reason}. Please call.", "Please call."),
        ("{reason}", FALLBACK),
        ("{{reason}} {reason}", "{reason}"),
    ],
)
def test_without_a_reason_the_sentence_is_tidied(template: str, without: str) -> None:
    chosen = Fallbacks.of(FallbackConfig(text=template)).choose(
        agent="a", workflow="", level=Level.HALTED, reason="internal only"
    )

    assert chosen.text == without


def test_a_sentence_does_not_end_twice() -> None:
    assert Template.parse("Paused: {reason}. Call us.").fill({"reason": "prices."}) == "Paused: prices. Call us."


def test_the_first_reason_for_users_among_the_deciding_orders_is_the_one_that_is_shown() -> None:
    orders = (
        _order("1", Level.HALTED, "internal"),
        _order("2", Level.HALTED, "b || users: second"),
        _order("3", Level.PAUSED, "c || users: third"),
    )
    several = Fallbacks.of(FallbackConfig(text="{reason}"))

    assert several.choose_for(orders, agent="a", workflow="", level=Level.HALTED).text == "second"
    assert several.choose_for(orders[::2], agent="a", workflow="", level=Level.HALTED).text == FALLBACK


def _order(order_id: str, level: Level, reason: str, scope: str = "everything") -> Order:
    return Order(order_id=order_id, scope=Scope.parse(scope), level=level, reason=reason, actor="ops", placed_at=NOON)


# --- templates ---

LITERAL = st.text(alphabet=st.characters(exclude_characters="{}", exclude_categories=["Cs"]))


@given(st.lists(st.tuples(LITERAL, st.sampled_from(PLACEHOLDERS))), st.text(min_size=1))
def test_values_are_put_in_as_they_are_and_are_never_read_as_templates(
    pieces: list[tuple[str, str]], value: str
) -> None:
    value = value.replace(".", "") or "x"
    text = "".join(f"{literal}{{{name}}}" for literal, name in pieces)

    assert Template.parse(text).fill(dict.fromkeys(PLACEHOLDERS, value)) == "".join(
        literal + value for literal, _ in pieces
    )


@given(LITERAL, LITERAL)
def test_doubled_braces_are_braces(before: str, after: str) -> None:
    assert Template.parse(f"{before}{{{{reason}}}}{after}").fill({"reason": "x"}) == f"{before}{{reason}}{after}"
    assert Template.plain(f"{before}{{{after}").fill({}) == f"{before}{{{after}"


@given(st.text(alphabet=string.ascii_letters + "{}.[]!: _()"))
def test_any_text_is_a_template_or_is_refused_and_never_reaches_into_a_value(text: str) -> None:
    try:
        template = Template.parse(text)
    except ValueError:
        return
    assert len(template.fill(dict.fromkeys(PLACEHOLDERS, ""))) <= len(text) + 1


@given(st.lists(st.sampled_from([*(f"{{{name}}}" for name in PLACEHOLDERS), " ", "(", ")", "\n", "a", "B", ".", ": "])))
def test_whatever_is_left_out_no_blanks_are_left_at_the_ends_of_what_is_shown(pieces: list[str]) -> None:
    shown = Fallbacks.of(FallbackConfig(text="".join(pieces))).choose(
        agent="", workflow="", level=Level.HALTED, reason=""
    )

    assert shown.text
    assert shown.text == shown.text.strip()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('fallback: "{resaon}"', "{resaon} is no placeholder; known are {reason}, {agent}, {level}, {retry_after_s}"),
        ('fallback: "{reason.__class__}"', "{reason.__class__} is no placeholder"),
        ('fallback: "{reason!r:>9}"', "is no placeholder"),
        ('fallback: "{0}"', "is no placeholder"),
        ('fallback: "{}"', "{} is no placeholder"),
        ('fallback: "a } b"', "write }} for a brace"),
        ('fallback: "a { b"', "write {{ for a brace"),
        ('fallback: {text: "{x}"}', "text: {x} is no placeholder"),
        ('fallback: {templates: [{text: a}, {agent: b, json: {m: ["{x}"]}}]}', "json[m][0]: {x} is no placeholder"),
        ('fallback: {templates: [{text: a}, {agent: b, json: {m: ["{x}"]}}]}', "$.fallback.templates[1]"),
        ("fallback: {txt: a}", "did you mean 'fallback.text'?"),
        ("fallback: {templates: [{txt: a}]}", "did you mean 'fallback.templates[0].text'?"),
        ("fallback: {templates: [{agent: a}]}", "it says nothing"),
        ("fallback: {templates: [{agent: 'a b', text: x}]}", "write NAME or NAME@VERSION"),
        ("fallback: {templates: [{level: hlted, text: x}]}", "the levels are: normal"),
        ("fallback: {templates: [{level: normal, text: x}]}", "use halted"),
        ("fallback: {templates: [{level: read-only, text: x}, {level: read_only, text: y}]}", "for the same case"),
        ("fallback: {templates: {text: x}}", "Expected `array`, got `object` - at `$.fallback.templates`"),
        ("fallback: {templates: [x]}", "$.fallback.templates[0]"),
        ("fallback: {templates: [{text: 3}]}", "$.fallback.templates[0].text"),
        ("fallback: {templates: [{json: {d: 2026-01-01}}]}", "which JSON cannot say"),
        ("fallback: {templates: [{json: {d: .nan}}]}", "which JSON cannot say"),
        ("fallback: {templates: [{json: {1: x}}]}", "key"),
        ("fallback: {templates: [{json: &a {d: *a}}]}", "or holds itself"),
        ('fallback: "\\ud800"', "half a character"),
        (f"fallback: {'x' * 4001}", "at most 4,000"),
        ("fallback: {retry_after_s: 0}", "from 1 to 86400"),
        ("fallback: {retry_after_s: true}", "$.fallback.retry_after_s"),
        ("fallback: {lang: '\"><script>'}", "write the language"),
        ("fallback: 3", "fallback must be text, or keys and values, and is 3"),
        ("fallback: [x]", "fallback must be text, or keys and values"),
    ],
)
def test_a_fallback_that_cannot_be_used_is_refused_with_file_place_and_remedy(
    folder: Path, text: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        fallbacks(folder, text)

    assert says in str(caught.value)
    assert str(folder / "rescind.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


# --- who is held ---


def a_subject(**fields: Any) -> Subject:
    return Subject(**({"run_id": "", "agent_name": "billing-agent", "agent_version": "2.4.0"} | fields))


def test_the_most_severe_order_that_covers_a_subject_decides() -> None:
    standing = (
        an_order("1", "agent:billing-agent", Level.READ_ONLY),
        an_order("2", "tenant:acme+agent:billing-agent", Level.HALTED),
        an_order("3", "run:run-1", Level.HALTED),
    )

    assert held_by(standing, a_subject(tenant="acme")).level is Level.HALTED
    assert held_by(standing, a_subject(tenant="acme")).orders[0].order_id == "2"
    assert held_by(standing, a_subject()).level is Level.READ_ONLY
    assert held_by(standing, a_subject(agent_name="other")).level is Level.NORMAL


# --- the guard ---


def halt(guard: Guard, agent: str, **options: Any) -> RunHalted:
    with pytest.raises(RunHalted) as caught, guard.run(agent, **options):
        pass
    return caught.value


def test_a_halted_run_carries_what_its_user_is_to_be_shown(folder: Path) -> None:
    _written(
        folder,
        """
        fallback:
          text: for everybody
          templates:
            - {agent: billing-agent, workflow: refunds, text: "Paused: {reason}", json: {why: "{reason}"},
               retry_after_s: 9}
        """,
    )
    guard = Guard.from_config()
    guard.orders.place(_order("1", Level.HALTED, "INC-7 || users: prices are wrong"))

    refunds = halt(guard, "billing-agent@2.4.0", workflow="refunds")
    assert (refunds.fallback, refunds.fallback_json, refunds.retry_after_s) == (
        "Paused: prices are wrong",
        {"why": "prices are wrong"},
        9,
    )
    assert halt(guard, "mail-agent@1").fallback == "for everybody"
    assert halt(guard, "billing-agent@2.4.0", workflow="refunds", fallback="Ask {me}.").fallback == "Ask {me}."
    guard.close()


def test_a_guard_says_what_stands_here_and_at_its_switches() -> None:
    guard = a_guard()
    guard.orders.place(an_order("1", level=Level.READ_ONLY))
    guard.take_up((an_order("2"),))

    assert [order.order_id for order in guard.standing()] == ["2", "1"]
    assert guard.standing() is guard.standing()
