"""What a tool says of its own call, while it runs: how sure it was, what it got as proof, what failed, what it cost.

@guard.write("invoice.pay", ...)
def pay(invoice_id: str) -> None:
    reply = bank.pay(invoice_id)
    rescind.report(receipt=reply.id, usd=0.02)
"""

import contextlib
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, cast

from rescind.errors import UsageError
from rescind.triggers.facts import ToolReport

CONFIDENCES_MAX = 32
"""Different things that one call may be unsure of. A tool that makes up names for them has mistaken the field."""

FAILED_PARTS_MAX = 100
"""Failed parts that are kept by name; of further ones, that there are some."""

TEXT_LENGTH_MAX = 1_000
"""Characters of a receipt or of a part's name that are kept. A document belongs elsewhere."""

USD_MAX = 1e12
"""Dollars that one call may cost. It keeps infinity out."""

MORE_PARTS = "… and more"

_ADDING = threading.Lock()  # A tool's threads may report at the same time, and neither part may be lost.


class Collecting:
    """What is reported within a `with` block. `report` is None for as long as nothing is.

    It may be entered once. Reports of threads and tasks that were started within the block count for as long as it
    lasts; what comes later has no call that it could be about.
    """

    __slots__ = ("_token", "closed", "report")

    def __init__(self) -> None:
        """Nothing is reported yet."""
        self.report: ToolReport | None = None
        self.closed = False
        self._token: Token[Collecting | None] | None = None

    def __enter__(self) -> "Collecting":
        self._token = current_report.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed = True
        assert self._token is not None
        # A coroutine that is closed from outside is left in another context, where this was never current.
        with contextlib.suppress(ValueError):
            current_report.reset(self._token)


current_report: ContextVar[Collecting | None] = ContextVar("rescind_report", default=None)
"""Where reports of the guarded call that is running here go, the innermost one's; None outside any."""


def report(
    *,
    confidence: float | Mapping[str, float] | None = None,
    of: str = "record",
    receipt: str | None = None,
    failed_parts: Iterable[str] = (),
    usd: float = 0.0,
    observed: Mapping[str, Any] | None = None,
) -> None:
    """Say something of the guarded call that is running, from within its tool.

    Several reports of one call add up: costs and failed parts are added, of several confidences in one thing the lowest
    counts, of several receipts the last.

    Args:
        confidence: From 0 to 1, how sure the tool is; or several, by what it is sure of.
        of: What it is sure of, where `confidence` is one number: `target`, `tenant`, `record` or `parse`.
        receipt: What the other system gave as proof that it has done its part.
        failed_parts: Which parts of a call with several did not happen.
        usd: What the call cost, in US dollars.
        observed: What the other system says it acted upon, by the names of the tool's parameters: it is compared with
            what was recorded and, where a person approved, approved.

    Raises: UsageError, outside a guarded call or for values out of range; nothing of this report is then kept.
    """
    collected = current_report.get()
    if collected is None or collected.closed:
        raise UsageError(
            "rescind.report was called outside a guarded call, so there is no call it could be about; call it from "
            "within the tool's function, or in a thread of the tool's that runs in `contextvars.copy_context()`"
        )
    confidences = _confidences(confidence, of)
    parts = _parts(failed_parts)
    _check_receipt(receipt)
    cost = _cost(usd)
    seen = _observed(observed)
    with _ADDING:
        known = collected.report or ToolReport()
        collected.report = _sum(known, confidences, receipt, parts, cost, seen)


def _sum(
    known: ToolReport,
    confidences: dict[str, float],
    receipt: str | None,
    parts: tuple[str, ...],
    cost: float,
    observed: dict[str, Any],
) -> ToolReport:
    lowest = known.confidence | {
        name: min(value, known.confidence.get(name, value)) for name, value in confidences.items()
    }
    if len(lowest) > CONFIDENCES_MAX:
        raise UsageError(f"rescind.report: one call is sure of at most {CONFIDENCES_MAX} things, this is one more")
    # A new value and not a change of the old one: who has looked at that keeps what he saw.
    return ToolReport(
        confidence=lowest,
        receipt=known.receipt if receipt is None else receipt[:TEXT_LENGTH_MAX],
        failed_parts=_together(known.failed_parts, parts),
        usd=known.usd + cost,
        observed=known.observed | observed,
    )


def _confidences(confidence: object, of: object) -> dict[str, float]:
    if confidence is None:
        return {}
    if isinstance(confidence, Mapping):
        given = cast("Mapping[object, object]", confidence)
        return {_name(name): _ratio(f"confidence[{name!r:.60}]", value) for name, value in given.items()}
    return {_name(of): _ratio("confidence", confidence)}


def _observed(observed: object) -> dict[str, Any]:
    if observed is None:
        return {}
    if not isinstance(observed, Mapping) or len(cast("Mapping[object, object]", observed)) > CONFIDENCES_MAX:
        raise UsageError(
            f"rescind.report: observed is {observed!r:.60}; give at most {CONFIDENCES_MAX} values by parameter name"
        )
    given = cast("Mapping[object, object]", observed)
    return {_name(name): value for name, value in given.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or len(name) > 64:
        raise UsageError(
            f"rescind.report: {name!r:.80} is not what one is sure of; say target, tenant, record, parse, or a short "
            "name of your own"
        )
    return name


def _ratio(what: str, value: object) -> float:
    # A bool is an int to Python, and `confidence=True` a tool that has mistaken the field.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"rescind.report: {what} is {value!r:.60}; it must be a number from 0 to 1")
    return float(value)


def _cost(usd: object) -> float:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd <= USD_MAX:
        raise UsageError(f"rescind.report: usd is {usd!r:.60}; it must be a number of dollars from 0 to {USD_MAX:g}")
    return float(usd)


def _check_receipt(receipt: object) -> None:
    if receipt is not None and (not isinstance(receipt, str) or not receipt.strip()):
        raise UsageError(f"rescind.report: receipt is {receipt!r:.60}; it must be a text, or left out if there is none")


def _parts(failed_parts: object) -> tuple[str, ...]:
    if isinstance(failed_parts, str) or not isinstance(failed_parts, Iterable):
        raise UsageError(f"rescind.report: failed_parts is {failed_parts!r:.60}; give a list of texts, one per part")
    parts: list[str] = []
    for part in cast("Iterable[object]", failed_parts):
        if not isinstance(part, str):
            raise UsageError(f"rescind.report: failed_parts holds {part!r:.60}; each part is named by a text")
        if len(parts) > FAILED_PARTS_MAX:
            break  # one more than is kept shows that there are more
        parts.append(part[:TEXT_LENGTH_MAX])
    return tuple(parts)


def _together(known: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    parts = known + more
    return parts if len(parts) <= FAILED_PARTS_MAX else (*parts[:FAILED_PARTS_MAX], MORE_PARTS)
