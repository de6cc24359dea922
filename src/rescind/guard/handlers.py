"""An effect put together from a user's own handlers: `.snapshot` with `.restore`, or `.compensate`."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from rescind.errors import Conflict
from rescind.guard.arguments import record_value
from rescind.guard.effect import Call, PastStep, Touch
from rescind.model.action import EffectClass
from rescind.model.step import Snapshot

if TYPE_CHECKING:
    from rescind.guard.binding import Binding

Handler = Callable[..., Any]


class HandlerEffect:
    """What a tool's handlers make of it. `snapshot` is called before and after the tool, and again at the undo."""

    def __init__(self, action: str, effect_class: EffectClass) -> None:
        self.effect_class = effect_class
        self._action = action
        self.snapshot: Binding | None = None
        self.restorer: Handler | None = None

    def open(self, call: Call) -> Touch | Awaitable[Touch]:
        """See `Effect`."""
        seen = self.look(call.arguments)
        if inspect.isawaitable(seen):
            return self._open_later(seen, call)
        return _HandlerTouch(self, call, seen)

    async def _open_later(self, seen: Awaitable[Snapshot | None], call: Call) -> Touch:
        return _HandlerTouch(self, call, await seen)

    def observe(self, step: PastStep) -> Snapshot | Awaitable[Snapshot | None] | None:
        """See `Effect`."""
        return self.look(step.arguments)

    def restore(self, step: PastStep) -> Awaitable[None] | None:
        """See `Effect`. The version is compared right before the user's handler is called, and not by the handler."""
        now = self.observe(step)
        if inspect.isawaitable(now):
            return self._restore_later(now, step)
        if self._must_restore(step, now):
            return self._call_restorer(step)
        return None

    async def _restore_later(self, now: Awaitable[Snapshot | None], step: PastStep) -> None:
        if self._must_restore(step, await now):
            result = self._call_restorer(step)
            if result is not None:
                await result

    def _call_restorer(self, step: PastStep) -> Awaitable[None] | None:
        assert self.restorer is not None
        result = self.restorer(step)
        return result if inspect.isawaitable(result) else None

    def _must_restore(self, step: PastStep, now: Snapshot | None) -> bool:
        before, after = step.before_snapshot, step.after_snapshot
        if now is None or before is None:
            raise Conflict(f"{step.action}: there is no snapshot to restore from")
        if now.version == before.version:
            return False
        if after is None or now.version != after.version:
            raise Conflict(f"{step.action}: the target is not as this step left it; it was not touched")
        return True

    def look(self, arguments: Mapping[str, Any]) -> Snapshot | Awaitable[Snapshot | None] | None:
        """The target now, through the user's eyes; None without a snapshot handler."""
        if self.snapshot is None:
            return None
        image = self.snapshot(arguments)
        return self._look_later(image) if inspect.isawaitable(image) else self._as_snapshot(image)

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`."""
        return self._as_snapshot(image)

    async def _look_later(self, image: Awaitable[Any]) -> Snapshot | None:
        return self._as_snapshot(await image)

    def _as_snapshot(self, image: Any) -> Snapshot:
        if isinstance(image, Snapshot):
            return image
        plain = record_value(self._action, "the snapshot", image)
        return Snapshot.of(plain, absent=image is None)


class _HandlerTouch:
    def __init__(self, effect: HandlerEffect, call: Call, before: Snapshot | None) -> None:
        self._effect, self._call = effect, call
        self.before = before

    def settle(self, result: Any) -> Snapshot | Awaitable[Snapshot | None] | None:
        return self._effect.look(self._call.arguments)  # one class in two parts

    def abandon(self) -> bool:
        return False  # a handler cannot vouch for a tool that raised
