"""The receipt that all switches and the local store give together, watched while it comes in."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from rescind.clock import Clock
from rescind.errors import RescindError
from rescind.switch.client.asking import Request, Switches, read_response
from rescind.switch.client.http import Address, Response, Unreachable, fetch
from rescind.switch.client.operator import MANY_BYTES_MAX
from rescind.switch.receipt import Receipt, join_receipts

Progress: TypeAlias = Callable[[Receipt], None]

HERE = "this machine"
"""What a receipt calls the local store, where that should have answered and could not."""

_HELD_S = 0.5
"""How long a switch may hold back a receipt that is not complete: whoever watches wants to see it grow."""

_PAUSE_S, _BACK_OFF_S = 0.05, 0.3
"""Between two questions; the latter after one that was not answered."""

_LATE_S = 2.0
"""When the time is up, how long an answer may be under way: ten thousand guards take a second on a busy machine."""

_Found: TypeAlias = "SimpleQueue[tuple[str, Receipt | None]]"
"""What each source has said; None when it says no more."""


def await_receipts(
    switches: Switches,
    order_id: str,
    *,
    timeout_s: float,
    clock: Clock,
    ids: Mapping[str, str] | None = None,
    here: Callable[[Progress], Receipt] | None = None,
    progress: Progress | None = None,
) -> Receipt:
    """Wait until the order has drained at every guard of every switch, or time is up; what all of them know, joined.

    Args:
        switches: All that are to be asked. One that does not answer, and that no other one answers for, is `unheard`.
        order_id: The order.
        timeout_s: How long to wait at most.
        clock: The time.
        ids: The id of the switch at each URL, as far as they are known: by them, switches speak of each other.
        here: Waits for the receipt of the local store, and reports each step on the way; None if there is none.
        progress: Called whenever something more is known.
    """
    began_s, found = clock.monotonic_s(), SimpleQueue[tuple[str, Receipt | None]]()
    deadline_s = began_s + timeout_s
    names = [*switches.urls, HERE] if here is not None else [*switches.urls]
    for url in switches.urls:
        request = _request(order_id, (url, *filter(None, [(ids or {}).get(url)])))
        _start(_poll, switches, url, request, deadline_s, clock, found)
    if here is not None:
        _start(_listen_here, here, found)
    told = {"": _nothing_known(order_id, names)}
    joined, speaking = told[""], len(names)
    while speaking and not is_complete(joined):
        try:
            name, receipt = found.get(timeout=max(0.0, deadline_s + _LATE_S - clock.monotonic_s()))
        except Empty:
            break
        if receipt is None:
            speaking -= 1
            continue
        told[name] = receipt
        before, joined = joined, join_receipts(told.values())
        if progress is not None and (before.guards, before.unheard) != (joined.guards, joined.unheard):
            progress(joined)
    waited_ms = (clock.monotonic_s() - began_s) * 1000
    return msgspec.structs.replace(joined, waited_ms=max(joined.waited_ms, round(waited_ms, 3)))


def is_complete(receipt: Receipt) -> bool:
    """Whether nothing more is awaited: every guard is known, and no call from before runs."""
    return receipt.all_drained and not receipt.unheard


def _nothing_known(order_id: str, names: list[str]) -> Receipt:
    return Receipt(
        order_id=order_id, stamp=0, waited_ms=0.0, all_bound=True, all_drained=True, guards=(), unheard=tuple(names)
    )


def _start(function: Callable[..., None], *args: object) -> None:
    threading.Thread(target=function, args=args, name="awaits a receipt", daemon=True).start()


def _request(order_id: str, names: tuple[str, ...]) -> Request[Receipt]:
    def read(response: Response) -> Receipt:
        receipt = msgspec.json.decode(response.body, type=Receipt)
        if receipt.order_id != order_id:
            raise ValueError("it is of another order")
        return msgspec.structs.replace(receipt, heard=(*receipt.heard, *names))

    path = f"/v1/orders/{quote(order_id, safe='')}/receipt?here=false&wait_s="
    return Request(method="GET", path=path, read=read, bytes_max=MANY_BYTES_MAX)


def _poll(
    switches: Switches, url: str, request: Request[Receipt], deadline_s: float, clock: Clock, found: _Found
) -> None:
    address = Address.parse(url)
    while True:
        held_s = max(0.0, min(_HELD_S, deadline_s - clock.monotonic_s()))
        try:
            response = fetch(
                address,
                "GET",
                f"{request.path}{held_s:.3f}",
                token=switches.token_of(url),
                ca_file=switches.ca_file,
                deadline_s=clock.monotonic_s() + held_s + _LATE_S,
                bytes_max=request.bytes_max,
                clock=clock,
            )
            # A switch that has not heard of the order yet refuses, and is asked again.
            receipt = read_response(url, response, request).answer
        except Unreachable:
            receipt = None
        if receipt is not None:
            found.put((url, receipt))
        if clock.monotonic_s() >= deadline_s or (receipt is not None and receipt.all_drained and not receipt.unheard):
            break
        clock.sleep(_BACK_OFF_S if receipt is None else _PAUSE_S)
    found.put((url, None))


def _listen_here(here: Callable[[Progress], Receipt], found: _Found) -> None:
    def tell(receipt: Receipt) -> None:
        found.put((HERE, msgspec.structs.replace(receipt, heard=(HERE,))))

    with contextlib.suppress(RescindError):  # nobody can look; then it stays unheard
        tell(here(tell))
    found.put((HERE, None))
