"""The port between a guarded write and its target: what an effect must be able to do, now and at the undo.

An effect is asked twice. Around the call, `open` looks at the target before and `settle` right after; what they return
goes into the journal. At the undo, `observe` looks again, and `restore` puts back what was there, only if the target is
still as the call left it.

A handler may be a coroutine function; its effect then answers with an awaitable, and its tool must be async too.

E1. `open` changes nothing at the target.
E2. After `settle` has returned, the effect is as durable as the target can make it.
E3. `abandon` says True only if the target is certainly as `open` found it.
E4. `restore` raises `Conflict` and changes nothing, if the target is not at the version that the step left.
E5. A `restore` that returned leaves `observe` equal to the step's `before`; doing it twice is doing it once: a target
    that is at the `before` version already is left alone. One that was interrupted anywhere is finished by the next.
E6. `probe`, where an effect has it, changes nothing and never guesses: see `Probe`.
E7. A restore has a way back: with `before` and `after` exchanged, `restore` puts the step's effect there again,
    exactly, or raises `Conflict` and changes nothing.
E8. Over somebody's later change, E4 and E5 hold for the snapshots that `restore` is given: an undo that forces or
    merges gives it what `observe` has just seen as `after_snapshot`, and what is to be put there as `before_snapshot`.
    An effect that cannot do that raises `Conflict`.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import msgspec

from rescind.model.action import EffectClass
from rescind.model.outcome import Outcome
from rescind.model.probe import Found
from rescind.model.probe import Probe as Probe  # with the effects that answer with it
from rescind.model.step import RunInfo, Snapshot, Target


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A write that is about to happen.

    `arguments` are the caller's own objects by parameter name, defaults filled in, secrets included.
    """

    run: RunInfo
    step_id: str
    action: str
    arguments: Mapping[str, Any]
    target: Target | None
    idempotency_key: str


class PastStep(msgspec.Struct, frozen=True, kw_only=True):
    """A write that has happened, as compensations, restores and verifications see it.

    Attributes:
        arguments: By parameter name, in the types of the tool's annotations where it has them; secrets are left out.
        result: What the tool returned, in the type of its return annotation; None if unknown.
        outcome: None if no end was recorded.
        before: The image that the snapshot returned before the call; `before_snapshot` has its version too.
        after: The image right after the call.
        idempotency_key: During a compensation: its own key, the same for every attempt; hand it to the target system.
            During a verification: the step's key.
    """

    run: RunInfo
    step_id: str
    action: str
    arguments: Mapping[str, Any]
    target: Target | None
    result: Any
    outcome: Outcome | None
    before_snapshot: Snapshot | None
    after_snapshot: Snapshot | None
    idempotency_key: str

    @property
    def before(self) -> Any:
        """The image of the target before the call; None if there is none."""
        return self.before_snapshot.image if self.before_snapshot else None

    @property
    def after(self) -> Any:
        """The image of the target right after the call; None if there is none."""
        return self.after_snapshot.image if self.after_snapshot else None


class Touch(Protocol):
    """One write in progress. Exactly one of `settle` and `abandon` is called, in the thread of `open`."""

    @property
    def before(self) -> Snapshot | None:
        """The target as `open` found it."""
        ...

    def settle(self, result: Any) -> Snapshot | Awaitable[Snapshot | None] | None:
        """The tool returned `result`: make the effect final (E2) and say how the target is now.

        Raises: NothingChanged, to vouch that it was taken back after all; anything else leaves the step unknown.
        """
        ...

    def abandon(self) -> bool:
        """The tool raised, or never ran. Let go of what is held; say whether nothing changed (E3)."""
        ...


class Effect(Protocol):
    """What a kind of write does to its target, ready-made or put together from a user's handlers."""

    @property
    def effect_class(self) -> EffectClass:
        """What an undo can do about it."""
        ...

    def open(self, call: Call) -> Touch | Awaitable[Touch]:
        """Look at the target before the call (E1).

        Raises: whatever the target raises; the call is then refused, and the tool does not run.
        """
        ...

    def observe(self, step: PastStep) -> Snapshot | Awaitable[Snapshot | None] | None:
        """Look at the target now. None if this effect cannot look."""
        ...

    def restore(self, step: PastStep) -> Awaitable[None] | None:
        """Put back what was there (E4, E5).

        Raises:
            Conflict: The target is not as the step left it.
            Transient: Nothing happened, and trying again may help.
        """
        ...


class Probing(Protocol):
    """What an effect may have besides: it can say of a step in doubt whether it took effect.

    An effect may also have an attribute `sees_aba`: whether its versions are the target's own, so that somebody who
    changed the target and changed it back is seen (True), or its content (False, the default).
    """

    def probe(self, step: PastStep) -> bool | Probe | Found | Awaitable[bool | Probe | Found]:
        """Whether the effect of `step.idempotency_key` took place (E6). True and False are found and not found.

        Raises: whatever the target raises; that is no answer, like `CANNOT_TELL`.
        """
        ...


def probe_by_version(step: PastStep, now: Snapshot | None) -> Probe:
    """What the target's version says of a step: `FOUND` where the step left it, `NOT_FOUND` where it found it."""
    before, after = step.before_snapshot, step.after_snapshot
    if now is None or before is None or not now.version:
        return Probe.CANNOT_TELL
    if now.version == before.version:
        return Probe.NOT_FOUND
    return Probe.FOUND if after is not None and now.version == after.version else Probe.CANNOT_TELL


class Imaging(Protocol):
    """An effect whose snapshots are more than images with the hash of their content as version."""

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """What `observe` would see if this image stood at the step's target. For what a `.merge` handler returns."""
        ...
