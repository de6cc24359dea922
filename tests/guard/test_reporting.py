"""What a tool says of its own call."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import Iterator

import pytest

from builders import at_once
from rescind.errors import UsageError
from rescind.guard.reporting import FAILED_PARTS_MAX, MORE_PARTS, Collecting, current_report, report
from rescind.triggers.facts import ToolReport


def test_a_call_of_which_nothing_was_said_has_no_report() -> None:
    with Collecting() as collected:
        pass

    assert collected.report is None


def test_several_reports_of_one_call_add_up() -> None:
    with Collecting() as collected:
        report(confidence=0.9, receipt="r-1", failed_parts=["a"], usd=0.5)
        report(confidence=0.4, of="parse", receipt="r-2", failed_parts=["b"], usd=0.25)
        report(confidence=0.7)
        report()

    assert collected.report == ToolReport(
        confidence={"record": 0.7, "parse": 0.4}, receipt="r-2", failed_parts=("a", "b"), usd=0.75
    )


def test_the_lowest_of_several_confidences_counts_whichever_comes_last() -> None:
    with Collecting() as collected:
        report(confidence={"target": 0.2, "record": 1})
        report(confidence={"target": 0.99})

    assert collected.report is not None
    assert collected.report.confidence == {"target": 0.2, "record": 1.0}


def test_who_has_looked_at_a_report_keeps_what_he_saw() -> None:
    with Collecting() as collected:
        report(confidence=0.9)
        seen = collected.report
        report(confidence=0.1)

    assert seen == ToolReport(confidence={"record": 0.9})


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"confidence": 1.01}, "from 0 to 1"),
        ({"confidence": -0.01}, "from 0 to 1"),
        ({"confidence": float("nan")}, "from 0 to 1"),
        ({"confidence": True}, "from 0 to 1"),
        ({"confidence": "high"}, "from 0 to 1"),
        ({"confidence": {"target": float("nan")}}, "confidence\\['target'\\]"),
        ({"confidence": {"": 0.5}}, "not what one is sure of"),
        ({"confidence": {7: 0.5}}, "not what one is sure of"),
        ({"confidence": 0.5, "of": "x" * 1_000}, "not what one is sure of"),
        ({"confidence": {str(number): 0.5 for number in range(33)}}, "at most 32"),
        ({"usd": -0.01}, "number of dollars"),
        ({"usd": float("inf")}, "number of dollars"),
        ({"usd": float("nan")}, "number of dollars"),
        ({"usd": True}, "number of dollars"),
        ({"usd": "1"}, "number of dollars"),
        ({"usd": 10**400}, "number of dollars"),
        ({"receipt": " "}, "left out"),
        ({"receipt": 7}, "left out"),
        ({"failed_parts": "mail"}, "a list of texts"),
        ({"failed_parts": 7}, "a list of texts"),
        ({"failed_parts": ["mail", 7]}, "named by a text"),
    ],
)
def test_a_report_that_cannot_be_meant_is_refused_and_nothing_of_it_is_kept(said: dict[str, object], what: str) -> None:
    with Collecting() as collected:
        report(usd=1)
        with pytest.raises(UsageError, match=what):
            report(**({"receipt": "r-9", "failed_parts": ["x"], "usd": 5} | said))  # type: ignore[arg-type]

    assert collected.report == ToolReport(usd=1.0)


def test_a_report_outside_a_guarded_call_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="from within the tool's function"):
        report(confidence=0.5)


def test_a_report_that_comes_after_its_call_is_refused() -> None:
    with Collecting() as collected:
        later = contextvars.copy_context()

    with pytest.raises(UsageError, match="outside a guarded call"):
        later.run(report, confidence=0.5)
    assert collected.report is None


def test_a_call_within_a_call_has_a_report_of_its_own() -> None:
    with Collecting() as outer:
        report(usd=1)
        with Collecting() as inner:
            report(usd=2)
        report(usd=4)

    assert (outer.report, inner.report) == (ToolReport(usd=5.0), ToolReport(usd=2.0))


def test_a_tool_that_raises_leaves_no_report_behind_for_the_next_call() -> None:
    with pytest.raises(RuntimeError), Collecting():
        report(usd=1)
        raise RuntimeError

    assert current_report.get() is None


def test_calls_that_overlap_as_tasks_keep_their_reports_apart() -> None:
    async def tool(usd: float) -> float:
        with Collecting() as collected:
            await asyncio.sleep(0)
            report(usd=usd)
            await asyncio.to_thread(report, usd=usd)
        assert collected.report is not None
        return collected.report.usd

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*(tool(float(number)) for number in range(20)))

    assert asyncio.run(all_of_them()) == [2.0 * number for number in range(20)]


def test_a_thread_that_was_given_no_context_is_told_how_to_get_one() -> None:
    said: list[str] = []

    def in_thread() -> None:
        try:
            report(usd=1)
        except UsageError as error:
            said.append(str(error))

    with Collecting():
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()

    assert "copy_context" in said[0]


def test_threads_of_one_tool_that_report_at_the_same_time_lose_nothing() -> None:
    def in_thread() -> None:
        for _ in range(1_000):
            report(usd=1)

    with Collecting() as collected:
        at_once(functools.partial(contextvars.copy_context().run, in_thread) for _ in range(4))

    assert collected.report == ToolReport(usd=4_000.0)


def test_endless_parts_and_huge_texts_are_kept_in_part() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "x" * 1_000_000

    with Collecting() as collected:
        report(failed_parts=endless(), receipt="r" * 1_000_000)
        report(failed_parts=["one more"])

    assert collected.report is not None
    assert len(collected.report.failed_parts) == FAILED_PARTS_MAX + 1
    assert collected.report.failed_parts[-1] == MORE_PARTS
    assert sum(map(len, collected.report.failed_parts)) < 1_000 * (FAILED_PARTS_MAX + 1)
    assert len(collected.report.receipt or "") == 1_000
