"""Moments as people type them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from rescind.cli.moments import ago, parse_moment, spoken
from rescind.clock import SystemClock, to_us
from rescind.errors import UsageError


class FixedClock(SystemClock):
    def __init__(self, now: datetime) -> None:
        self.now = now

    def now_us(self) -> int:
        return to_us(self.now)


NOON = FixedClock(datetime(2026, 11, 21, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T06:00:00Z", datetime(2026, 11, 21, 6, tzinfo=UTC)),
        ("2026-11-21T06:00:00.5+02:00", datetime(2026, 11, 21, 4, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-21 06:00+00:00", datetime(2026, 11, 21, 6, tzinfo=UTC)),
    ],
)
def test_a_moment_with_a_zone_is_taken_as_it_is(text: str, moment: datetime) -> None:
    assert parse_moment(text, option="--since", clock=NOON) == moment


def test_a_time_of_day_is_today_by_the_clock_of_this_machine() -> None:
    taken = parse_moment("06:10:05", option="--since", clock=NOON)

    local = NOON.now.astimezone()
    assert taken.tzinfo is not None
    assert (taken.date(), taken.hour, taken.minute, taken.second) == (local.date(), 6, 10, 5)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("2026-11-21T06:00:00", "add Z for UTC"),
        ("2026-11-21", "add Z for UTC"),
        ("yesterday", "2026-11-21T06:00:00Z"),
        ("25:00", "no time of day"),
        ("06:61", "no time of day"),
        ("", "2026-11-21T06:00:00Z"),
    ],
)
def test_what_could_be_another_moment_is_refused(text: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy) as refused:
        parse_moment(text, option="--until", clock=NOON)
    assert "--until" in str(refused.value)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def refusal(text: str, option: str, now: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse_moment(text, option=option, clock=FixedClock(datetime.fromisoformat(now)))
    return str(refused.value)


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_time_of_day_that_is_still_to_come_was_meant_for_yesterday_and_is_refused(option: str) -> None:
    said = refusal("23:50", option, "2026-11-21T00:10:00+01:00")

    assert said == f"{option}: 23:50 is still to come today; write 2026-11-20T23:50+01:00 for yesterday's"


def test_a_since_that_is_still_to_come_is_refused() -> None:
    assert "still to come" in refusal("2026-11-21T12:00:01Z", "--since", "2026-11-21T12:00:00Z")
    assert parse_moment("2026-11-21T12:00:01Z", option="--until", clock=NOON) > NOON.now


@pytest.mark.usefixtures("in_berlin")
def test_an_hour_that_the_clocks_skip_is_refused_with_both_offsets() -> None:
    said = refusal("02:30", "--since", "2026-03-29T12:00:00+02:00")

    assert "did not exist today, as the clocks went from +01:00 to +02:00" in said
    assert "write 2026-03-29T02:30+01:00 or 2026-03-29T02:30+02:00" in said


@pytest.mark.usefixtures("in_berlin")
def test_an_hour_that_comes_twice_is_refused_with_both_offsets() -> None:
    said = refusal("02:30", "--since", "2026-10-25T12:00:00+01:00")

    assert "came twice today, as the clocks went from +02:00 to +01:00" in said
    assert "write 2026-10-25T02:30+02:00 or 2026-10-25T02:30+01:00" in said
    assert "+02:00 or +01:00" in refusal("2026-10-25T02:30", "--since", "2026-11-21T12:00:00Z")


@pytest.mark.usefixtures("in_berlin")
def test_the_hours_beside_a_change_of_the_clocks_are_taken() -> None:
    noon = FixedClock(datetime.fromisoformat("2026-10-25T12:00:00+01:00"))

    assert parse_moment("01:30", option="--since", clock=noon) == datetime.fromisoformat("2026-10-25T01:30+02:00")
    assert parse_moment("03:00", option="--since", clock=noon) == datetime.fromisoformat("2026-10-25T03:00+01:00")


def test_a_moment_is_spoken_with_its_zone() -> None:
    assert spoken(datetime(2026, 11, 21, 6, tzinfo=UTC)) == "2026-11-21 06:00:00 UTC"
    assert spoken(datetime.fromisoformat("2026-11-21T06:00:00.000001+01:00")) == "2026-11-21 06:00:00.000001 +01:00"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_199, "119 min"), (90_000, "25 h"), (-5, "0 s")],
)
def test_an_age_is_said_in_one_unit(seconds: int, words: str) -> None:
    assert ago(NOON.now - timedelta(seconds=seconds), clock=NOON) == words
