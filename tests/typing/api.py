"""Written as a user would write it, and only type-checked: what the decorators keep, and what they refuse."""

import asyncio
from datetime import timedelta
from typing import assert_type, cast

import rescind

guard = rescind.Guard.from_config()


@guard.read("invoice.get")
def get(invoice_id: str) -> dict[str, str]:
    return {"id": invoice_id}


def invoice(invoice_id: str) -> tuple[str, str, str]:
    return ("erp", "invoice", invoice_id)


@guard.write("invoice.status.update", target=invoice)
def set_status(invoice_id: str, status: str) -> int:
    return len(invoice_id + status)


@set_status.snapshot
def _(invoice_id: str) -> dict[str, str]:
    return get(invoice_id)


@set_status.restore
def _(step: rescind.PastStep) -> None:
    assert_type(step.step_id, str)


@set_status.verify
def _(step: rescind.PastStep) -> bool:
    return bool(step.after == step.arguments["status"])


@guard.write("card.charge", redact=["card"], undo_within=timedelta(days=30), after=["invoice.status.update"])
async def charge(card: str, cents: int) -> str:
    return f"{card}{cents}"


@charge.compensate(idempotent=True)
async def _(step: rescind.PastStep) -> None: ...


@guard.write("plan.set", target=invoice)
def set_plan(invoice_id: str) -> None: ...


@set_plan.snapshot
def _(invoice_id: str) -> str:
    return invoice_id


@set_plan.restore(parallel=True)
def put_back(step: rescind.PastStep) -> int:
    return len(step.step_id)


assert_type(put_back(cast("rescind.PastStep", None)), int)


@guard.write("seat.book")
def book(seat: str) -> None: ...


@book.compensate(parallel=True)
def _(step: rescind.PastStep) -> None: ...


@guard.write("seat.hold")
def hold(seat: str) -> None: ...


@hold.compensate(idempotent=True, parallel=True)
def _(step: rescind.PastStep) -> None: ...


@hold.probe(compensations=True)
def _(step: rescind.PastStep) -> bool | rescind.Probe | rescind.Found:
    return rescind.Found(step.idempotency_key) if step.result else rescind.Probe.CANNOT_TELL


@guard.write("stock.reserve", on_conflict="merge", in_doubt_after=timedelta(seconds=90))
def reserve(sku: str, pieces: int) -> None: ...


@reserve.merge
def _(step: rescind.PastStep, now: int) -> int:
    return now + int(step.arguments["pieces"])


@guard.write("mail.send", irreversible="a mail cannot be unsent")
def send(to: str) -> None: ...


@guard.write("page.fetch", irreversible="it costs money", cancellable=True)
async def fetch(url: str) -> bytes:
    return url.encode()


async def agent() -> None:
    async with guard.run("billing-agent@2.4.0", tenant="acme") as run:
        assert_type(run, rescind.Run)
        assert_type(set_status("inv_1", "void"), int)
        assert_type(set_status.keyed("order-17")("inv_1", "void"), int)
        assert_type(await charge("4242", cents=500), str)
        assert_type(await fetch("https://example.com"), bytes)
        assert_type(run.environment(), dict[str, str])
        with run.branch(), run.spawn(agent="mailer@1") as child:
            assert_type(child, rescind.Run)
            send("ada@example.com")
        try:
            send("grace@example.com")
        except rescind.CallDenied as refusal:
            assert_type(refusal.level, rescind.Level | None)
        except rescind.RunHalted as halt:
            assert_type(halt.fallback, str)
        set_status("inv_1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # status is missing


if __name__ == "__main__":
    asyncio.run(agent())
