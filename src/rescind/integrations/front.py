"""What every kind of front door asks: whose request is this, how far is that one held back, and what is shown then."""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rescind.errors import CallDenied, RunHalted, UsageError
from rescind.guard.fallback import Fallback, Fallbacks, Held, held_by, plain_json
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Subject
from rescind.model.step import parse_agent

if TYPE_CHECKING:
    from rescind.guard.guard import Guard

logger = logging.getLogger("rescind")

EXEMPT = ("/health", "/healthz", "/livez", "/readyz", "/metrics")
"""Paths by which machines look after a program. A stopped agent is no reason to restart its server."""

Tenant = str | Callable[[Any], str | None]
Standing = Callable[[], tuple[Order, ...]]

_SEEN_MAX = 100  # errors in one chain or group; nobody raises so many, and a bound is a bound


class Front:
    """One front door. Its methods are quick, thread-safe, and raise nothing."""

    def __init__(
        self,
        guard: "Guard",
        *,
        agent: str | None,
        tenant: Tenant,
        workflow: str,
        paths: Iterable[str],
        exempt: Iterable[str],
        fallbacks: Fallbacks | None,
        standing: Standing | None,
    ) -> None:
        """See `rescind.integrations.asgi.FallbackMiddleware`.

        Raises: UsageError, if the agent or a path cannot be read.
        """
        try:
            self.agent_name, self.agent_version = parse_agent(agent) if agent else ("", "")
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.guard, self.agent, self.workflow = guard, agent or "", workflow
        self._tenant, self._paths, self._exempt = tenant, _paths(paths), _paths(exempt)
        self.fallbacks = fallbacks or guard.fallbacks
        self._standing = standing or guard.standing
        self._known: tuple[Order, ...] = ()
        self._fault = ""

    def covers(self, path: str) -> bool:
        """Whether requests for this path are the agent's."""
        return _leads_to(path, self._paths) and not _leads_to(path, self._exempt)

    def subject(self, request: Any) -> Subject:
        """Whom orders would have to name to hold this request."""
        tenant: Any = self._tenant
        if callable(tenant):
            try:
                tenant = tenant(request)
            except Exception:
                # The tools behind this door have guards of their own, which know the tenant.
                logger.exception("tenant= failed, so the request is taken for one of no tenant")
                tenant = ""
        return Subject(
            run_id="",
            agent_name=self.agent_name,
            agent_version=self.agent_version,
            tenant=tenant or "",
            workflow=self.workflow,
        )

    def standing(self) -> tuple[Order, ...]:
        """What stands; what stood last, if that cannot be read now."""
        try:
            self._known, fault = self._standing(), ""
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not take the front door down with it
            fault = str(error) or type(error).__name__
        if fault and fault != self._fault:
            logger.warning("the standing orders cannot be read, so requests go on as they last stood: %s", fault)
        self._fault = fault
        return self._known

    def held(self, subject: Subject) -> Held:
        """How far orders hold the subject back now."""
        return held_by(self.standing(), subject)

    def admits(self, subject: Subject) -> Held:
        """The same for a new request, which a silence of all switches holds back as well; it ends none (law G3)."""
        held = self.held(subject)
        silence = self.guard.lease.level_at(self.guard.clock.boot_s())
        return held if silence <= held.level else Held(silence, ())

    def shown(self, held: Held) -> Fallback:
        """What to show to somebody who is held back like this."""
        return self.fallbacks.choose_for(held.orders, agent=self.agent, workflow=self.workflow, level=held.level)

    def shown_for(self, error: BaseException) -> Fallback | None:
        """What to show in place of an error that the application let out; None, if a stop has no part in it."""
        refusal = _refusal_in(error)
        if refusal is None:
            return None
        if refusal is not error:
            logger.error("a stop ended a request, and the application let out this", exc_info=error)
        if isinstance(refusal, CallDenied) or not refusal.fallback:
            level = Level.HALTED if isinstance(refusal, RunHalted) else refusal.level or Level.HALTED
            orders = tuple(each for each in self.standing() if each.order_id in refusal.order_ids)
            return self.shown(Held(level, orders))
        retry_after_s = refusal.retry_after_s or self.fallbacks.retry_after_s
        said = refusal.fallback_json or plain_json(refusal.fallback, level=Level.HALTED, retry_after_s=retry_after_s)
        return Fallback(refusal.fallback, said, retry_after_s, self.fallbacks.lang)

    def in_flight(self) -> frozenset[str]:
        """The steps of the guard that are running now."""
        return self.guard.in_flight()


def refuses(held: Held) -> bool:
    """Whether nothing new may start. Under `read_only` the agent can still answer from what it reads."""
    return not held.level.allows_reads


def _refusal_in(error: BaseException) -> RunHalted | CallDenied | None:
    """The refusal by an order that an error is, holds as a group, or was raised in the wake of."""
    ahead: list[BaseException | None] = [error]
    seen: set[int] = set()
    while ahead and len(seen) < _SEEN_MAX:
        each = ahead.pop()
        if each is None or id(each) in seen or not isinstance(each, Exception):
            continue
        if isinstance(each, RunHalted) or (isinstance(each, CallDenied) and (each.level or Level.NORMAL)):
            return each
        seen.add(id(each))
        ahead += [each.__context__, each.__cause__, *getattr(each, "exceptions", ())]
    return None


def _paths(paths: Iterable[str]) -> tuple[str, ...]:
    each_of = (paths,) if isinstance(paths, str) else tuple(paths)
    for path in each_of:
        if not path.startswith("/"):
            raise UsageError(f"{path!r} is no path; a path begins with a slash, such as /chat")
    return tuple(path.rstrip("/") for path in each_of)


def _leads_to(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes)
