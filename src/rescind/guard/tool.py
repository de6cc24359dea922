"""A declared write: the tool's function, its action and what can be done about its effect."""

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, cast

from rescind.errors import DeclarationError
from rescind.guard.arguments import Signature
from rescind.guard.binding import Binding
from rescind.guard.effect import Effect, PastStep, Probing
from rescind.guard.handlers import Handler, HandlerEffect
from rescind.guard.held import check_hold
from rescind.guard.results import Results
from rescind.model.action import IN_DOUBT_AFTER, Action, EffectClass, OnConflict
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.probe import ProbeResult
from rescind.model.step import REDACTED, Arguments, Snapshot, Target

THREE_CHOICES = """\
    reversible     @{tool}.snapshot and @{tool}.restore, or effect=SqlRows(…), Files(…), MappingKey(…)
    compensatable  @{tool}.compensate
    irreversible   @guard.write("{action}", irreversible="why nobody can take it back")"""

_OURS = "rescind.compensation.effects"  # By name: the guard does not import what stands on it.

_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class WriteTool:
    """A write as declared: compensation of its steps is `Compensator`'s business, and this is one."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        target: Callable[..., Any] | None,
        key: Callable[..., str] | None,
        redact: tuple[str, ...],
        irreversible: str | None,
        effect: Effect | None,
        after: tuple[str, ...],
        undo_within: timedelta | None,
        cancellable: bool = False,
        spawns: bool = False,
        returns: Any = None,
        hold: "timedelta | Literal['run'] | None" = None,
        on_conflict: str = OnConflict.REVIEW,
        in_doubt_after: timedelta = IN_DOUBT_AFTER,
    ) -> None:
        self.spawns = spawns
        self.hold = hold
        self.results = Results(function, name, returns)
        self.function, self.name = function, name
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature = Signature(function)
        self._required = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in _COLLECTING
        ]
        self.redact = frozenset(redact)
        self.verifier: Handler | None = None
        self.compensator: Handler | None = None
        self.prober: Handler | None = None
        self.merger: Handler | None = None
        self._probes_compensations = False
        self.place = place_of(function)
        self._target = Binding(target, role="target=") if target else None
        self._key = Binding(key, role="key=") if key else None
        self._given_effect = effect
        self._irreversible = irreversible
        self._idempotent = self._parallel = False
        self._handlers = HandlerEffect(name, EffectClass.REVERSIBLE)
        self.undo_within = undo_within
        self._after = after
        self._in_doubt_after = in_doubt_after
        self._on_conflict = self._policy_of(on_conflict)
        self._sealed: Action | None = None
        self.cancellable = cancellable
        if cancellable and not self.is_async:
            raise DeclarationError(
                f"{name} ({self.place}) is synchronous, and nothing can cancel a function in the middle; "
                "drop cancellable=True, or make it a coroutine"
            )
        self._check_names()
        if hold is not None:
            check_hold(self, function)

    # --- declaration ---

    def set_snapshot(self, handler: Handler) -> None:
        """The handler that looks at the target."""
        self._declare("snapshot", taken=self._handlers.snapshot is not None)
        binding = Binding(handler, role="snapshot")
        self._check_binding("snapshot", binding.parameters, looks_again=True)
        self._handlers.snapshot = binding

    def set_restore(self, handler: Handler, *, parallel: bool = False) -> None:
        """The handler that puts back what was there."""
        self._declare("restore", taken=self._handlers.restorer is not None or self.compensator is not None)
        self._handlers.restorer, self._parallel = handler, parallel

    def set_compensate(self, handler: Handler, *, idempotent: bool, parallel: bool = False) -> None:
        """The handler that offsets the effect."""
        self._declare("compensate", taken=self._handlers.restorer is not None or self.compensator is not None)
        self.compensator, self._idempotent, self._parallel = handler, idempotent, parallel

    def set_verify(self, handler: Handler) -> None:
        """The handler that checks the postcondition."""
        if self.verifier is not None:
            raise DeclarationError(f"{self.name} ({self.place}) has two .verify handlers")
        self.verifier = handler

    def set_probe(self, handler: Handler, *, compensations: bool = False) -> None:
        """The handler that asks the target system about a key."""
        if self.prober is not None:
            raise DeclarationError(f"{self.name} ({self.place}) has two .probe handlers")
        self._refuse_late("probe")
        self.prober, self._probes_compensations = handler, compensations

    def set_merge(self, handler: Handler) -> None:
        """The handler that takes the step's part out of a later change."""
        if self.merger is not None:
            raise DeclarationError(f"{self.name} ({self.place}) has two .merge handlers")
        self._refuse_late("merge")
        self.merger = handler

    @property
    def action(self) -> Action:
        """The declaration as a value.

        Raises: DeclarationError, if it is not complete; nothing may be called before it is.
        """
        if self._sealed is None:
            self._sealed = self._seal()
        return self._sealed

    @property
    def effect(self) -> Effect:
        """What stands between the tool and its target."""
        return self._given_effect or self._handlers

    def _declare(self, what: str, *, taken: bool) -> None:
        if self._irreversible is not None:
            raise DeclarationError(f"{self.name} ({self.place}) is declared irreversible and has a .{what}; drop one")
        if self._given_effect is not None:
            raise DeclarationError(f"{self.name} ({self.place}) has an effect= and a .{what}; drop one")
        if taken:
            raise DeclarationError(f"{self.name} ({self.place}) already says how it is undone; .{what} is one too many")
        self._refuse_late(what)

    def _refuse_late(self, what: str) -> None:
        if self._sealed is not None:
            raise DeclarationError(f"{self.name} ({self.place}) was in use before its .{what} was declared")

    def _policy_of(self, word: str) -> OnConflict:
        try:
            return OnConflict(word)
        except ValueError as error:
            words = ", ".join(OnConflict)
            raise DeclarationError(f"{self.name} ({self.place}): on_conflict={word!r} is none of {words}") from error

    def _check_doubts_and_conflicts(self, effect_class: EffectClass) -> None:
        where, policy = f"{self.name} ({self.place})", self._on_conflict
        if policy is not OnConflict.REVIEW and effect_class is not EffectClass.REVERSIBLE:
            raise DeclarationError(
                f'{where}: on_conflict="{policy}" is about putting back what was there, and it is {effect_class}; '
                "drop it, or declare a .snapshot and a .restore"
            )
        if (policy is OnConflict.MERGE) != (self.merger is not None):
            tool = getattr(self.function, "__name__", "tool")
            missing = f"@{tool}.merge" if self.merger is None else 'on_conflict="merge"'
            raise DeclarationError(f'{where}: a .merge handler and on_conflict="merge" belong together; add {missing}')
        if self._probes_compensations and effect_class is not EffectClass.COMPENSATABLE:
            raise DeclarationError(
                f"{where}: .probe(compensations=True) is about a .compensate, and it has none; drop compensations="
            )
        if self._in_doubt_after < timedelta(0):
            raise DeclarationError(f"{where}: in_doubt_after={self._in_doubt_after} is negative; give a time span")

    def _seal(self) -> Action:
        if not self.is_async:
            self._refuse_async_handlers()
        effect_class = self._effect_class()
        if self.hold is not None and effect_class is EffectClass.REVERSIBLE:
            raise DeclarationError(
                f"{self.name} ({self.place}) can be put back, so it need not be held; hold= is for what cannot be: a "
                "mail, a post, a payout"
            )
        self._check_doubts_and_conflicts(effect_class)
        return Action(
            name=self.name,
            effect_class=effect_class,
            irreversible_because=self._irreversible or "",
            after=self._after,
            undo_within=self.undo_within,
            compensation_idempotent=self._idempotent,
            on_conflict=self._on_conflict,
            probed=self.prober is not None or callable(getattr(self._given_effect, "probe", None)),
            compensation_probed=self._probes_compensations,
            in_doubt_after=self._in_doubt_after,
        )

    def _refuse_async_handlers(self) -> None:
        snapshot = self._handlers.snapshot.function if self._handlers.snapshot else None
        undoing = (self._handlers.restorer, self.compensator, self.prober, self.merger)
        for handler in (snapshot, *undoing, self.verifier):
            if inspect.iscoroutinefunction(handler):
                raise DeclarationError(
                    f"{self.name} ({self.place}) is synchronous and has an asynchronous handler; "
                    "make both async or neither"
                )

    def _effect_class(self) -> EffectClass:
        if self._irreversible is not None:
            if not self._irreversible.strip():
                raise DeclarationError(f"{self.name} ({self.place}): irreversible= needs the reason, in words")
            self._handlers.effect_class = EffectClass.IRREVERSIBLE
        elif self._given_effect is not None:
            return self._given_effect.effect_class
        elif self.compensator is not None:
            self._handlers.effect_class = EffectClass.COMPENSATABLE
        elif self._handlers.restorer is None:
            choices = THREE_CHOICES.format(tool=getattr(self.function, "__name__", "tool"), action=self.name)
            raise DeclarationError(
                f"{self.name} ({self.place}) is a write without an effect class. Choose one:\n{choices}"
            )
        elif self._handlers.snapshot is None:
            raise DeclarationError(f"{self.name} ({self.place}) has a .restore and no .snapshot to restore from")
        return self._handlers.effect_class

    def _check_names(self) -> None:
        for name in sorted(self.redact - set(self.signature.names)):
            raise DeclarationError(f"{self.name} ({self.place}): redact= names {name!r}, which is no parameter of it")
        self._check_binding("target=", self._target.parameters if self._target else frozenset())
        self._check_binding("key=", self._key.parameters if self._key else frozenset())
        # At the undo the target is looked at again, from what the journal has; a redacted argument is not there.
        self._check_binding("effect=", getattr(self._given_effect, "parameters", frozenset()), looks_again=True)

    def _check_binding(self, what: str, names: frozenset[str], *, looks_again: bool = False) -> None:
        for name in sorted(names - set(self.signature.names)):
            raise DeclarationError(
                f"{self.name} ({self.place}): {what} takes {name!r}, which is no parameter of the tool"
            )
        for name in sorted(names & self.redact) if looks_again else ():
            raise DeclarationError(
                f"{self.name} ({self.place}): {what} takes {name!r}, which redact= keeps out of the journal; "
                "an undo could not look at the target again"
            )

    @property
    def parallel(self) -> bool:
        """Whether several steps may be looked at and undone at once: see `Compensator`, C4.

        Ready-made effects can; handlers if they were declared so, and an effect of the application's own if it has an
        attribute `parallel` that says so.
        """
        if self._given_effect is None:
            return self._parallel
        return bool(getattr(self._given_effect, "parallel", type(self._given_effect).__module__.startswith(_OURS)))

    @property
    def facts(self) -> dict[str, Any]:
        """What else was declared that an undo depends on: parameters, those that are needed, and the kind of effect."""
        effect = None if self._given_effect is None else type(self._given_effect).__name__
        return {
            "parameters": list(self.signature.names),
            "required": self._required,
            "redact": sorted(self.redact),
            "effect": effect,
        }

    # --- the call ---

    def target_of(self, arguments: dict[str, Any]) -> Target | None:
        """The target of a call: what `target=` says, or what a ready-made effect knows by itself.

        Raises: DeclarationError, if `target=` returns something else than up to three texts.
        """
        if self._target is not None:
            return as_target(self._target(arguments), self.name, self.place)
        of_effect = getattr(self._given_effect, "target", None)
        return of_effect(arguments) if of_effect is not None else None

    def key_of(self, arguments: dict[str, Any]) -> str | None:
        """The idempotency key that `key=` makes of a call; None without one."""
        return None if self._key is None else str(self._key(arguments))

    # --- afterwards ---

    def past(self, record: StepRecord, *, key: str) -> PastStep:
        """A recorded step as handlers see it."""
        outcome = record.outcome
        result = outcome.result if isinstance(outcome, Completed) and outcome.result_recorded else None
        return PastStep(
            run=record.run,
            step_id=record.step.step_id,
            action=self.name,
            arguments=self.signature.typed_arguments(record.step.arguments),
            target=record.step.target,
            result=self.signature.typed_result(result),
            outcome=outcome,
            before_snapshot=record.step.before,
            after_snapshot=record.after,
            idempotency_key=key,
        )

    def accepts(self, arguments: Arguments) -> str:
        """What is wrong with recorded arguments for the tool's parameters as they are now; empty if nothing is."""
        gone = [name for name, value in arguments.items() if value != REDACTED and name not in self.signature.names]
        missing = [name for name in self._required if name not in arguments and name not in self.redact]
        if not gone and not missing:
            return ""
        return f"took ({', '.join(arguments)}) when it was made, takes ({', '.join(self.signature.names)}) now"

    def observe(self, record: StepRecord) -> Snapshot | Awaitable[Snapshot | None] | None:
        """The step's target now; see `Effect.observe`."""
        return self.effect.observe(self.past(record, key=record.step.idempotency_key))

    def undo(self, record: StepRecord, idempotency_key: str) -> Awaitable[None] | None:
        """Restore or compensate the step, whichever it was declared to be."""
        step = self.past(record, key=idempotency_key)
        if self.action.effect_class is EffectClass.COMPENSATABLE and self.compensator is not None:
            result: Awaitable[None] | None = self.compensator(step)
            return result if inspect.isawaitable(result) else None
        return self.effect.restore(step)

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult | Awaitable[ProbeResult]:
        """Ask the target system about this key; see `Prober`."""
        ask = self.prober or cast("Probing", self._given_effect).probe
        answer: Any = ask(self.past(record, key=idempotency_key))
        return _read_later(answer) if inspect.isawaitable(answer) else ProbeResult.read(answer)

    def merge(self, record: StepRecord, idempotency_key: str, now: Snapshot) -> Snapshot | Awaitable[Snapshot]:
        """What the target should become; see `Merger`."""
        assert self.merger is not None
        step = self.past(record, key=idempotency_key)
        image: Any = self.merger(step, now.image)
        return self._merged_later(step, image) if inspect.isawaitable(image) else self._merged(step, image)

    async def _merged_later(self, step: PastStep, image: Awaitable[Any]) -> Snapshot:
        return self._merged(step, await image)

    def _merged(self, step: PastStep, image: Any) -> Snapshot:
        if isinstance(image, Snapshot):
            return image
        snapshot_of = getattr(self.effect, "snapshot_of", None)
        made: Snapshot = Snapshot.of(image, absent=image is None) if snapshot_of is None else snapshot_of(step, image)
        return made


async def _read_later(answer: Awaitable[Any]) -> ProbeResult:
    return ProbeResult.read(await answer)


class ReadTool:
    """A declared read: it is gated, and leaves no trace in the journal but the target it was declared to read."""

    def __init__(self, function: Callable[..., Any], name: str, *, target: Callable[..., Any] | None = None) -> None:
        self.name, self.place = name, place_of(function)
        self._target = Binding(target, role="target=") if target else None
        if self._target is None:
            return
        self._signature = Signature(function)
        for parameter in sorted(self._target.parameters - set(self._signature.names)):
            raise DeclarationError(
                f"{name} ({self.place}): target= takes {parameter!r}, which is no parameter of the tool"
            )

    def target_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Target | None:
        """What a call with these arguments reads; None if that is not declared.

        Raises: TypeError, as the tool would for such a call; DeclarationError, if `target=` returns no target.
        """
        if self._target is None:
            return None
        return as_target(self._target(self._signature.bind(args, kwargs)), self.name, self.place)


def as_target(named: Any, action: str, place: str) -> Target | None:
    """What a `target=` has returned, as a target. Raises: DeclarationError, if it is none."""
    match named:
        case None | Target():
            return named
        case str():
            return Target.parse(named)
        case (system, *rest) if system and len(rest) <= 2:
            kind, identifier = (*(str(part) for part in rest), "", "")[:2]
            return Target(str(system), kind, identifier)
        case _:
            raise DeclarationError(f"{action} ({place}): target= returned {named!r}; return (system, kind, id)")


def place_of(function: Callable[..., Any]) -> str:
    """Where a function was written, for messages."""
    with contextlib.suppress(AttributeError):
        return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    return repr(function)
