"""`rescind audit orders`: who stopped and gave back what, when, and from where, as each switch recorded it."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import msgspec

from rescind.cli.moments import clock_zone, time_of_day
from rescind.cli.options import common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.places import find_places
from rescind.cli.safe import safe, short
from rescind.cli.trouble import failed, reply_as_json, trouble_line
from rescind.cli.words import count_of
from rescind.clock import SystemClock, from_us
from rescind.config import URL_VARIABLE
from rescind.errors import UsageError
from rescind.switch.client.asking import Reply, Switches
from rescind.switch.client.operator import get

LIMIT = 100

_PAGE = 1_000
"""What a switch gives at once."""

_PAGES_MAX = 500
"""Half a million lines; a log that is longer is asked for with --after."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int
    at_us: int
    what: str
    subject: str = ""
    actor: str = ""
    person: str = ""
    origin: str = ""
    detail: str = ""
    hash: str = ""


class _Log(msgspec.Struct, frozen=True):
    """Lines of one switch, oldest first; whether there are more than were asked for; or why there are none."""

    url: str
    lines: Sequence[_Line] = ()
    more: bool = False
    fault: Reply[Any] | None = None


@click.command(
    short_help="List what each switch was told.",
    epilog="""\b
Examples:
  rescind audit orders
  rescind audit orders --switch https://stop-1:7443 --after 1200 --json
""",
)
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="From this line on, instead of the newest.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, metavar="N", help="Lines at most."
)
@switches
@common
def orders(*, after: int | None, limit: int, out: Out) -> int:
    """List what each switch was told: orders, lifts and consents, oldest first.

    Every switch keeps a log of its own. The name in brackets is that of the token. Exit status 1 if a switch does not
    answer.
    """
    places = find_places(given_places())
    if not places.switches.urls:
        raise UsageError(f"no switch is named: use --switch, {URL_VARIABLE}, or switch.urls in rescind.yaml")
    logs = [_read(places.switches, url, after, limit) for url in places.switches.urls]
    faults = [log.fault for log in logs if log.fault is not None]
    if len(faults) == len(logs):
        raise failed("no switch shows its log", faults)
    for log in logs:
        _say(log, after, limit, out)
    out.emit({"switches": [_as_json(log) for log in logs]})
    return 1 if faults else 0


def _read(switches: Switches, url: str, after: int | None, limit: int) -> _Log:
    one = msgspec.structs.replace(switches, urls=(url,))
    try:
        lines = _lines(one, after or 0, _PAGE if after is None else min(limit + 1, _PAGE))
        if after is None:
            kept = deque(lines, maxlen=limit + 1)
            return _Log(url, list(kept)[-limit:], len(kept) > limit)
        found = [line for line, _ in zip(lines, range(limit + 1), strict=False)]
        return _Log(url, found[:limit], len(found) > limit)
    except _NoPage as fault:
        return _Log(url, fault=fault.reply)


class _NoPage(Exception):
    def __init__(self, reply: Reply[Any]) -> None:
        super().__init__(reply.detail)
        self.reply = reply


def _lines(switch: Switches, after: int, page: int) -> Iterator[_Line]:
    for _ in range(_PAGES_MAX):
        path = f"/v1/audit?after={after}&limit={page}"
        (reply,) = get(switch, path, tuple[_Line, ...], clock=SystemClock()).every()
        if reply.answer is None:
            raise _NoPage(reply)
        yield from reply.answer
        if len(reply.answer) < page or reply.answer[-1].sequence <= after:
            return
        after = reply.answer[-1].sequence


def _say(log: _Log, after: int | None, limit: int, out: Out) -> None:
    if log.fault is not None:
        out.say(trouble_line(log.fault), style="red")
        return
    earlier = ", the newest" if log.more and after is None else ""
    out.say(f"{safe(log.url)}  {count_of(len(log.lines), 'line')}{earlier}", style="bold")
    for line in _table(log.lines):
        out.say(line)
    if log.more:
        out.note(f"there are more; --limit {10 * limit} shows more, --after shows others")


def _table(lines: Iterable[_Line]) -> Iterator[str]:
    day = ""
    for line in lines:
        moment = from_us(line.at_us)
        date, _, time = time_of_day(moment).partition(" ")
        if date != day:
            day = date
            yield f"{date} {clock_zone(moment)}"
        person = f" ({safe(line.person)})" if line.person and line.person != line.actor else ""
        origin = f" from {safe(line.origin)}" if line.origin else ""
        yield f"{line.sequence:>8}  {time}  {safe(line.what)}  {safe(line.subject)}  {safe(line.actor)}{person}{origin}"
        if line.detail:
            yield f"{'':>20}{short(line.detail, 300)}"


def _as_json(log: _Log) -> dict[str, Any]:
    if log.fault is not None:
        return reply_as_json(log.fault)
    return {"url": log.url, "state": "answers", "lines": list(log.lines), "more": log.more}
