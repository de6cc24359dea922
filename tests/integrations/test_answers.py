"""Which form an Accept header means, and that hostile text stays text in each."""

import html.parser
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.guard.fallback import Fallback, plain_json
from rescind.integrations.answers import CLOSE_CODE, Form, answer, as_event, as_json, as_page, close_reason, form_for
from rescind.model.level import Level

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def a_fallback(text: str = "Please call us.", **fields: Any) -> Fallback:
    return Fallback(text, plain_json(text, level=Level.HALTED, retry_after_s=30), **fields)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.JSON),
        ("*/*", Form.JSON),
        (BROWSER, Form.HTML),
        ("text/event-stream", Form.EVENTS),
        ("TEXT/Event-Stream ; charset=utf-8", Form.EVENTS),
        ("application/json, text/event-stream", Form.JSON),
        ("application/json;q=0.5, text/event-stream", Form.EVENTS),
        ("text/html;q=0.4, application/json;q=0.5", Form.JSON),
        ("text/html;q=0.5,application/json;q=0.499", Form.HTML),
        ("text/html, */*;q=0.1", Form.HTML),
        ("text/html;q=0, */*", Form.JSON),
        ("application/json;q=0, */*", Form.HTML),
        ("application/*;q=0.2, text/*", Form.HTML),
        ("text/*", Form.HTML),
        ("text/html;level=1;q=0.3, application/json;q=0.2", Form.HTML),
        ('text/html;a="x,application/json;y", */*;q=0.5', Form.HTML),
        ("text/html;q=1.5, application/json;q=0.1", Form.JSON),
        ("text/html;q=nan, application/json;q=0.1", Form.JSON),
        ("text/html;Q=0.2 , application/json; q = 0.1", Form.HTML),
        ("image/png", Form.JSON),
        ("application/problem+json", Form.JSON),
        ("*/*;q=0", Form.JSON),
        (",,;;q=,\x00", Form.JSON),
    ],
)
def test_the_form_follows_the_weights_and_json_is_the_default(accept: str, form: Form) -> None:
    assert form_for(accept) is form


WEIGHT = st.integers(0, 1000).map(lambda thousandths: f"{thousandths / 1000:.3f}")
RANGES = st.dictionaries(st.sampled_from([*map(str, Form), "text/*", "application/*", "*/*", "image/png"]), WEIGHT)


@given(RANGES, st.randoms())
def test_the_heaviest_form_wins_whatever_the_order_of_the_ranges(ranges: dict[str, str], random: Any) -> None:
    def weight(form: Form) -> float:
        names = [str(form)] if form is Form.EVENTS else [str(form), f"{form.split('/')[0]}/*", "*/*"]
        return next((float(ranges[name]) for name in names if name in ranges), 0.0)

    parts = [f"{name};q={q}" for name, q in ranges.items()]
    random.shuffle(parts)

    assert form_for(", ".join(parts)) is max(Form, key=weight)


@given(st.text() | st.text(alphabet='ax/*;,=q01. "\\'))
def test_any_accept_header_means_some_form(accept: str) -> None:
    assert form_for(accept) in Form


@given(st.sampled_from(Form), st.text(), st.booleans())
def test_an_answer_says_how_long_it_is(form: Form, text: str, head: bool) -> None:
    whole = answer(a_fallback(text), form, head=head)
    headers = dict(whole.headers)

    assert headers["content-length"] == str(len(answer(a_fallback(text), form).body))
    assert whole.body == b"" or not head
    assert headers["vary"] == "accept"
    assert ("retry-after" in headers) is (whole.status == 503) is (form is not Form.EVENTS)
    assert all(value.isascii() and value.isprintable() for value in headers.values())


class Page(html.parser.HTMLParser):
    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags, self.text, self.attributes = list[str](), "", dict[str, str | None]()
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= attrs

    def handle_data(self, data: str) -> None:
        self.text += data if self.tags[-1:] in (["h1"], ["p"]) else ""


@given(st.text())
def test_no_text_becomes_markup(text: str) -> None:
    page = Page(as_page(a_fallback(text)))

    plain = Page(as_page(a_fallback("x")))
    assert [tag for tag in page.tags if tag != "p"] == plain.tags
    assert page.attributes == plain.attributes


def test_a_page_names_its_language_its_title_and_its_status_and_runs_nothing() -> None:
    page = Page(as_page(a_fallback("Wir sind gleich zurück.\n\nTel. 0123 & 4", lang="de")))

    assert page.attributes["lang"] == "de"
    assert page.attributes["role"] == "status"
    assert page.text.split("\n")[0] == "Wir sind gleich zurück.Tel. 0123 & 4"
    assert "title" in page.tags
    assert "script" not in page.tags
    assert b"color-scheme: light dark" in as_page(a_fallback())


@given(st.text())
def test_an_event_is_one_event_of_json_on_one_line(text: str) -> None:
    lines = as_event(a_fallback(text)).decode().split("\n")

    assert lines[:4] == ["", "", "event: agent_paused", "retry: 30000"]
    assert lines[5:] == ["", ""]
    assert json.loads(lines[4].removeprefix("data: "))["error"]["message"] == text
    assert "\r" not in lines[4]


@given(st.text(alphabet=st.characters(codec=None)))
def test_text_that_cannot_be_encoded_is_shown_as_far_as_it_can(text: str) -> None:
    for form in Form:
        assert answer(a_fallback(text + "\ud800"), form).body.decode()
    assert len(close_reason(a_fallback(text + "\ud800")).encode()) <= 123
    assert CLOSE_CODE == 1013


def test_json_that_is_none_becomes_the_plain_form() -> None:
    assert json.loads(as_json(Fallback("x", {"a": {1, 2}})))["error"]["message"] == "x"
    assert json.loads(as_json(Fallback("x", {"a": float("nan")})))["error"]["message"] == "x"
