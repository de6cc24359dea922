"""Moments as people type them: `2026-11-21T06:00:00Z`, or `06:00` for today by this machine's clock."""

import re
from datetime import datetime, time, timedelta

from rescind.clock import Clock, SystemClock, from_us
from rescind.errors import UsageError

SINCE = "--since"

_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


def parse_moment(text: str, *, option: str, clock: Clock | None = None) -> datetime:
    """The moment that was meant; aware, in the zone it was written in.

    A bare time of day is today's, in this machine's local time: at three in the morning nobody converts. Refused is
    what could be two moments or none: a date without a zone, an hour that is skipped or comes twice when the clocks
    change, and a time of day that is still to come, which at ten past midnight was meant for yesterday. So is a
    `--since` that is still to come, since it selects nothing, and that must not look like nothing to do.

    Raises: UsageError, which names the option and the remedy.
    """
    text, clock = text.strip(), clock or SystemClock()
    if _TIME_OF_DAY.fullmatch(text):
        return _today_at(text, option=option, clock=clock)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no moment; write it like 2026-11-21T06:00:00Z, or 06:00 for today by this machine's "
            "clock"
        ) from None
    if moment.tzinfo is None:
        zones = " or ".join(dict.fromkeys(_offset(meant) for meant in _readings(moment)))
        raise UsageError(
            f"{option} {text!r} has no time zone, so it could be one of many moments; "
            f"add Z for UTC, or {zones} for this machine's time"
        )
    if option == SINCE and moment > from_us(clock.now_us()):
        raise UsageError(f"{option} {text!r} is still to come, so nothing was done from then on")
    return moment


def spoken(moment: datetime) -> str:
    """The moment with its zone, to the second or as exactly as it was given: `2026-11-21 06:00:00 +01:00`."""
    text = moment.isoformat(sep=" ", timespec="microseconds" if moment.microsecond else "seconds")
    stem, zone = text[:-6], text[-6:]
    return f"{stem} UTC" if zone == "+00:00" else f"{stem} {zone}"


def to_the_second(moment: datetime) -> str:
    """As `spoken`, without fractions: when something that is on record happened, for people."""
    return spoken(moment.replace(microsecond=0))


def time_of_day(moment: datetime) -> str:
    """`2026-11-21 06:00:00`, by this machine's clock, for lists whose header names the zone."""
    return _local(moment).strftime("%Y-%m-%d %H:%M:%S")


def clock_zone(moment: datetime) -> str:
    """The zone of this machine's clock at that moment: `UTC`, or an offset such as `+01:00`."""
    return spoken(_local(moment)).rpartition(" ")[2]


def ago(moment: datetime, *, clock: Clock | None = None) -> str:
    """How long ago, in one unit: `4 s`, `12 min`, `3 h`, `9 d`."""
    seconds = max(0, round((from_us((clock or SystemClock()).now_us()) - moment).total_seconds()))
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s} {unit}"
    return f"{seconds} s"


def _today_at(text: str, *, option: str, clock: Clock) -> datetime:
    hours, minutes, seconds = (int(part) for part in f"{text}:00".split(":")[:3])
    try:
        of_day = time(hours, minutes, seconds)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no time of day; the hours go from 00:00 to 23:59:59") from None
    now = from_us(clock.now_us())
    today = _local(now).date()
    moment = _the_only(datetime.combine(today, of_day), text, option=option)
    if moment > now:
        yesterday = _readings(datetime.combine(today - timedelta(days=1), of_day))[0]
        raise UsageError(f"{option}: {text} is still to come today; write {_typed(yesterday)} for yesterday's")
    return moment


def _the_only(local: datetime, text: str, *, option: str) -> datetime:
    """The one moment at which this machine's clock showed this. Raises: UsageError, if there are two, or none."""
    before, after = sorted(_readings(local))
    if before == after:
        return before
    came = "came twice" if before.replace(tzinfo=None, fold=0) == local else "did not exist"
    raise UsageError(
        f"{option}: {text} {came} today, as the clocks went from {_offset(before)} to {_offset(after)}; "
        f"write {_typed(local, _offset(before))} or {_typed(local, _offset(after))}"
    )


def _readings(local: datetime) -> tuple[datetime, datetime]:
    # Through the naive value, so that a day on which the clocks change gets the offset of that hour.
    return local.replace(fold=0).astimezone(), local.replace(fold=1).astimezone()


def _offset(moment: datetime) -> str:
    return moment.isoformat()[-6:]


def _typed(moment: datetime, offset: str = "") -> str:
    precision = "seconds" if moment.second else "minutes"
    return f"{moment.isoformat(timespec=precision)}{offset}"


def _local(moment: datetime) -> datetime:
    return moment.astimezone()
