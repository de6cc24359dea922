"""One write call: what the flow asks of it, with the run, the tool and the arguments at hand."""

from collections.abc import Callable
from contextvars import ContextVar
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import from_us
from rescind.errors import NotSerialisable, UsageError
from rescind.guard.arguments import own_copy, record_arguments, record_value, refuse_secrets, scrub, secrets_of
from rescind.guard.asking import use_of
from rescind.guard.effect import Call, PastStep
from rescind.guard.gate import AwaitApproval
from rescind.guard.held import HELD_AGENT, HeldEffect, NoTouch, held_run_of
from rescind.guard.probing import hand_back
from rescind.guard.reporting import Collecting
from rescind.guard.request import Returned
from rescind.guard.strand import Strand, strand_of
from rescind.guard.tool import WriteTool
from rescind.journal.port import Appended, Draft, SlotClaim
from rescind.model.approval import Approval, approval_id_of
from rescind.model.compact import KIND_OF_EFFECT_CLASS
from rescind.model.entry import EffectHeld, Ended, Event, Intended, Released, RunOpened, StepRef
from rescind.model.outcome import Completed, Outcome, Unknown
from rescind.model.step import Arguments, Compensation, HeldUntil, RunInfo, Snapshot, Step, Target, digest_of
from rescind.triggers.facts import End

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from rescind.guard.run import Run
    from rescind.guard.watching import Asked
    from rescind.model.history import StepRecord
    from rescind.switch.probes import Claim
    from rescind.triggers.facts import ToolReport

current_key: ContextVar[str | None] = ContextVar("rescind_idempotency_key", default=None)
"""The idempotency key of the write whose tool is running; a tool may hand it on to the system it calls."""


current_secrets: ContextVar[set[str] | None] = ContextVar("rescind_secrets", default=None)
"""The redacted values of the guarded writes that are running here, one within the other."""


def idempotency_key() -> str | None:
    """The idempotency key of the guarded write whose tool is running here, to hand on to the system it calls."""
    return current_key.get()


class WriteCall:
    """One call of a write. The flow drives it; each method is one thing the flow needs to know or to have done."""

    def __init__(
        self,
        tool: WriteTool,
        run: "Run",
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: str | None,
    ) -> None:
        self.tool, self.run = tool, run
        self.action = tool.name
        self._args, self._kwargs = args, kwargs
        self._key = key
        self.step_is_keyed = False
        self.idempotency_key = ""
        self.step_id = ""
        self._arguments: dict[str, Any] = {}
        self._recorded: Arguments = {}
        self._secrets: set[str] = set()
        self._hidden: tuple[str, ...] = ()
        self._strand: Strand | None = None
        self._target: Target | None = None
        self._ref = StepRef(run.info.run_id, "")
        self._parents: tuple[StepRef, ...] = ()
        self._before: Snapshot | None = None
        self._effect_began = False
        self.awaits: AwaitApproval | None = None  # why a person has to approve it, if one has to
        self.approval: Approval | None = None  # what it is begun with then
        self.arguments_digest = ""
        self.cut_short = ""  # why the tool was cancelled, if a halt of the run did it
        self.verified: bool | None = None
        self._outcome: Outcome | None = None
        self._asked: Asked | None = None  # what detectors were told of it
        self._collecting = Collecting()  # what the tool says of itself
        self._invoked = False
        self._problem = ""  # of its result, for its declared shape
        self._probe: Claim | None = None  # of open breakers
        self._until: datetime | None = None  # when a held effect may be released
        self._released: Step | None = None  # the held step that this call lets go
        self._was_approved = False  # before it was held

    # --- before the effect ---

    def admit(self) -> None:
        """The gate. Raises: CallDenied, RunHalted, DeclarationError."""
        self._declared = self.tool.action  # an incomplete declaration is refused before anything else
        self.awaits = self.run.admit(self.action, writes=True) or self._by_policy()

    def check_orders(self) -> None:
        """The gate once more, now that the intent is durable (W2). Costs one look at the page if nothing moved."""
        awaits = self.run.check_orders(self.action, writes=True)
        if awaits is not None and self.approval is None and not self._was_approved:
            raise awaits.came_too_late(self.action)
        self._probe = self.run.claim_probe(self.action)

    def check_waiting(self) -> AwaitApproval | None:
        """The gate while it waits for a person: why it still has to; None if it has not any more."""
        return self.run.check_waiting(self.action) or self._by_policy()

    def _by_policy(self) -> AwaitApproval | None:
        because = self.run.guard.approval_reason(self.action)
        return AwaitApproval(because) if because else None

    def record(self) -> None:
        """Bind the arguments and put them into the journal's form. Raises: NotSerialisable, TypeError."""
        self._arguments = self.tool.signature.bind(self._args, self._kwargs)
        unrecordable = self.tool.signature.unrecordable_result
        if unrecordable:
            remedy = "annotate a dataclass or JSON values, or leave the annotation out"
            problem = f"its type {unrecordable} has no JSON form; {remedy}"
            raise NotSerialisable(action=self.action, name="the result", problem=problem)
        # One set for all calls of a nest: what an inner tool raises or returns may come out of the outer one.
        nest = current_secrets.get()
        self._secrets = set() if nest is None else nest
        self._hidden = secrets_of(self._arguments, self.tool.redact)
        self._secrets.update(self._hidden)
        self._recorded = self._as_recorded()
        if self.is_held and (misfit := self.tool.signature.misfit(self._recorded)):
            raise UsageError(
                f"{self.action} ({self.tool.place}) is held and made from the journal later, as its annotations say, "
                f"and it {misfit}. It was not held and will not be done; mend the argument or the annotation"
            )
        self._target = self.tool.target_of(self._arguments)
        key = self._key if self._key is not None else self.tool.key_of(self._arguments)
        if key is not None:
            if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
                raise UsageError(f"{self.action}: an idempotency key is a text that is not empty, not {key!r}")
            self.step_is_keyed, self.idempotency_key = True, key
            self.hash_arguments()
        if self._secrets:
            refuse_secrets(self.action, "the target", str(self._target), self._secrets)
            refuse_secrets(self.action, "the idempotency key", self.idempotency_key, self._secrets)

    def answered_before(self) -> Returned | None:
        """What this call is answered with, because its step stands from before the run was resumed; None if none."""
        resumption = self.run.resumption
        if resumption is None:
            return None
        self.hash_arguments()
        record = resumption.earlier.take(self.arguments_digest)
        if record is None:
            return None
        if record.is_held:
            return Returned(HeldEffect(record.ref, self.action, self._until_of(record)))
        assert isinstance(record.outcome, Completed), "only what stands is answered"
        problem = self.tool.signature.misfit_result(record.outcome.result)
        if problem:
            resumption.earlier.give_back(self.arguments_digest, record)
            raise UsageError(
                f"{self.action} ({self.tool.place}): step {record.ref} stands, and what it returned before the run was "
                f"resumed is no result of the tool as it is declared now ({problem}); it was not run again. Resume "
                "with the version that made it, or mend the return type"
            )
        return Returned(self.typed_result(record.outcome.result))

    def look_out(self) -> None:
        """Ask the detectors, now that it is known what would be done to what. Raises: CallDenied, RunHalted."""
        if self.run.watch is None:
            return
        redact = self.tool.redact
        public = (
            {name: each for name, each in self._recorded.items() if name not in redact} if redact else self._recorded
        )
        self._asked = self.run.asked(
            self.action, writes=True, arguments=public, target=self._target, spawns=self.tool.spawns
        )

    def _as_recorded(self) -> Arguments:
        recorded: Arguments = scrub(record_arguments(self.action, self._arguments, self.tool.redact), self._secrets)
        return recorded

    def check_unchanged(self) -> None:
        """The arguments are still those of the intent; somebody may have changed a list while that became durable.

        Raises: UsageError.
        """
        containers = any(isinstance(value, list | dict | tuple) for value in self._recorded.values())
        if self.approval is not None:
            self._take_copies()
        if (containers or self.approval is not None) and not self.is_as_recorded():
            raise UsageError(
                f"{self.action}: an argument was changed while its intent was being recorded, so the tool was not run; "
                "pass it a copy"
            )

    def _take_copies(self) -> None:
        # What a person has approved is executed with arguments that nobody else has in hand, so that what is compared
        # now is what the tool gets, whatever other threads do. Redacted ones stay: they need not even be values.
        kept = {id(self._arguments.get(name)) for name in self.tool.redact}
        self._args = tuple(value if id(value) in kept else own_copy(value) for value in self._args)
        self._kwargs = {name: value if id(value) in kept else own_copy(value) for name, value in self._kwargs.items()}
        self._arguments = self.tool.signature.bind(self._args, self._kwargs)

    def hash_arguments(self) -> None:
        """Fill in the digest of action and arguments, which an idempotency slot and an approval compare."""
        public = {name: value for name, value in self._recorded.items() if name not in self.tool.redact}
        self.arguments_digest = digest_of(self.action, public)

    # --- a person's approval; see `asking` ---

    @property
    def recorded(self) -> Arguments:
        """The arguments as they are recorded, redacted ones blotted out."""
        return self._recorded

    @property
    def target(self) -> Target | None:
        """What the call touches, as far as its arguments say it."""
        return self._target

    def approval_id(self, number: int) -> str:
        """The id of the approval that is asked for this very call for the time with this number."""
        return approval_id_of(self.run.info.run_id, self.arguments_digest, self._target, number)

    def is_as_recorded(self) -> bool:
        """Whether the arguments, redacted ones too, are still what they were when they were recorded."""
        return self._as_recorded() == self._recorded and self._hidden == secrets_of(self._arguments, self.tool.redact)

    # --- the intent ---

    @property
    def opening(self) -> Draft | None:
        """The draft that opens the run, where that needs an append of its own."""
        return self.run.opening_alone()

    def opened(self, appended: Appended) -> None:
        """The run is open; its steps are numbered from here."""
        self.run.mark_open(appended.positions[0])

    def open_target(self) -> Any:
        """Number the step, and look at the target."""
        self.step_id = self.run.next_step_id()
        if not self.step_is_keyed:
            self.idempotency_key = f"{self.run.info.run_id}/{self.step_id}"
        if self.is_held:
            return NoTouch()
        return self.look_at_target()

    def look_at_target(self) -> Any:
        """Look at the target, of a step that has its number."""
        call = Call(
            run=self.run.info,
            step_id=self.step_id,
            action=self.action,
            arguments=self._arguments,
            target=self._target,
            idempotency_key=self.idempotency_key,
        )
        return self.tool.effect.open(call)

    def take_off(self) -> None:
        """The step counts as in flight from here."""
        self._ref = StepRef(self.run.info.run_id, self.step_id)
        self._strand = strand_of(self.run.info.run_id)
        self._parents = self._strand.begin(self._ref)
        self.run.guard.in_flight_steps[self._ref] = None

    def land(self) -> None:
        """The step's outcome is as durable as it gets; it is no longer in flight."""
        self.run.guard.in_flight_steps.pop(self._ref, None)
        if self._effect_began and self._strand is not None:
            self._strand.end(self._ref, self._parents)
        elif self._strand is not None:
            self._strand.forget(self._ref, self._parents)
        if self._probe is not None:
            is_good = isinstance(self._outcome, Completed) and self.verified is not False
            hand_back(self.run.guard, self._probe, succeeded=is_good if self._invoked else None)
        if self._asked is not None and self._outcome is not None and self._invoked:
            self.run.ended(self._end(self._asked, self._outcome), secrets=self._secrets)

    def _end(self, asked: "Asked", outcome: Outcome) -> End:
        report = self._without_secrets(self._collecting.report)
        problem = self.scrub(self._problem) if self._problem else ""
        differs = self._difference(self._collecting.report)
        asked.step_id = self.step_id  # only now: until it has ended, detectors know the call as it was asked for
        return End(
            call=asked,
            at_s=self.run.guard.clock.boot_s(),
            outcome=outcome,
            verified=self.verified,
            report=report,
            problem=problem,
            approved_differs=differs,
        )

    def _without_secrets(self, report: "ToolReport | None") -> "ToolReport | None":
        # Now, since a detector shows texts cut short, and nobody recognises a secret by its first half.
        if report is None or not self._secrets:
            return report
        return msgspec.structs.replace(
            report,
            confidence=scrub(report.confidence, self._secrets),
            receipt=scrub(report.receipt, self._secrets),
            failed_parts=tuple(map(self.scrub, report.failed_parts)),
        )

    def _difference(self, report: "ToolReport | None") -> str:
        """How what the tool observed differs from what was recorded, and approved if anybody had to; or empty."""
        for name, value in (report.observed if report is not None else {}).items():
            try:
                seen = scrub(record_value(self.action, name, value), self._secrets)
            except NotSerialisable:
                return f"{name} was observed as something that cannot be recorded"
            if name not in self.tool.redact and seen != self._recorded.get(name):
                return f"{name} was observed as {seen!r:.80}, recorded as {self._recorded.get(name)!r:.80}"
        return ""

    def intent(self, before: Snapshot | None) -> tuple[Draft, ...]:
        """The drafts that make the intent durable; the first of a run opens it too."""
        self._before = before
        if self._secrets and before is not None:
            # A before-image is restored from, so nothing in it can be blotted out.
            refuse_secrets(self.action, "the snapshot", before.image, self._secrets)
        now_us = self.run.guard.clock.now_us()
        declared = self._declared
        within: timedelta | None = declared.undo_within
        step = Step(
            step_id=self.step_id,
            action=self.action,
            effect_class=declared.effect_class,
            requested=self._recorded,
            target=self._target,
            causal_parents=tuple(self._parent_name(ref) for ref in self._parents),
            before=before,
            idempotency_key=self.idempotency_key,
            keyed=self.step_is_keyed,
            arguments_digest=self.arguments_digest,
            approval_id=msgspec.UNSET if self.approval is None else self.approval.approval_id,
            compensation=Compensation(
                kind=KIND_OF_EFFECT_CLASS[declared.effect_class],
                allowed_until=None if within is None else from_us(now_us) + within,
            ),
            engine_checkpoint=self.run.guard.engine_checkpoint() or msgspec.UNSET,
            held=HeldUntil(at=self._held_until(now_us)) if self.is_held else msgspec.UNSET,
        )
        claim = None
        if self.step_is_keyed:
            claim = SlotClaim(self.run.info.tenant, self.idempotency_key, self.arguments_digest)
        draft = Draft(run_id=self.run.info.run_id, event=Intended(step), recorded_at_us=now_us, claim=claim)
        drafts = (draft,) if self.approval is None else (draft, *use_of(self, self.approval))
        if self.is_held:
            drafts = (*drafts, *self._listing())
        opening = self.run.opening_with_intent()
        return drafts if opening is None else (opening, *drafts)

    # --- held; see `held` ---

    @property
    def is_held(self) -> bool:
        """Whether the tool is to run later."""
        return self.tool.hold is not None and self._released is None

    def held_effect(self, step: StepRef | None = None) -> HeldEffect:
        """What the caller is told of this call, or of the step that holds its idempotency key."""
        return HeldEffect(step or self._ref, self.action, self._until)

    @staticmethod
    def _until_of(record: "StepRecord") -> "datetime | None":
        return record.step.held.at if isinstance(record.step.held, HeldUntil) else None

    def _held_until(self, now_us: int) -> "datetime | None":
        hold = self.tool.hold
        self._until = None if hold is None or isinstance(hold, str) else from_us(now_us) + hold
        return self._until

    def _listing(self) -> tuple[Draft, ...]:
        """The drafts by which the step is found without reading every run."""
        info, now_us = self.run.info, self.run.guard.clock.now_us()
        listing = RunInfo(run_id=held_run_of(info), agent_name=HELD_AGENT, tenant=info.tenant)
        events = (
            RunOpened(run=listing, guard_id=self.run.guard.guard_id),
            EffectHeld(step=self._ref, action=self.action),
        )
        return tuple(Draft(run_id=listing.run_id, event=event, recorded_at_us=now_us) for event in events)

    @classmethod
    def of_held(cls, tool: WriteTool, run: "Run", record: "StepRecord") -> "WriteCall":
        """The call of a step that was held, to be released: bound again from what the journal has of it.

        Raises: TypeError, if the tool cannot be called like that any more.
        """
        step = record.step
        call = cls(tool, run, (), tool.signature.typed_arguments(step.arguments), None)
        call._declared = tool.action
        call._arguments = tool.signature.bind((), call._kwargs)
        call._recorded, call._target = step.arguments, step.target
        call.step_is_keyed, call.idempotency_key = step.keyed, step.idempotency_key
        call.step_id, call._released = step.step_id, step
        call._was_approved = isinstance(step.approval_id, str)
        return call

    def release(self, before: Snapshot | None, position: int) -> Draft:
        """The draft that lets the step go: only at this position of its run's chain (HE2)."""
        self._before = before
        event = Released(step_id=self.step_id, releaser=self.run.guard.guard_id, before=before)
        return msgspec.structs.replace(self.draft(event), expected_position=position)

    def take_off_again(self) -> None:
        """The released step counts as in flight from here. Its place among the others was decided when it was held."""
        self._ref = StepRef(self.run.info.run_id, self.step_id)
        self.run.guard.in_flight_steps[self._ref] = None

    def intent_is_durable(self) -> None:
        """With the first intent of a run, its opening became durable."""
        self.run.mark_open(None)

    # --- the effect ---

    def invoke(self) -> Any:
        """The tool itself. What it raises, or its cancellation, is the flow's to judge."""
        self._invoked = True
        if self._asked is not None:  # its duration is the tool's: it may have waited for a person
            self._asked.at_s = self.run.guard.clock.boot_s()
        if self.tool.is_async:
            return self._invoke_async()
        key_token, secrets_token = current_key.set(self.idempotency_key), current_secrets.set(self._secrets)
        try:
            with self._collecting:
                result = self.tool.function(*self._args, **self._kwargs)
        finally:
            current_key.reset(key_token)
            current_secrets.reset(secrets_token)
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            raise UsageError(f"{self.action} returned a generator, whose work would come after its outcome")
        return result

    async def _invoke_async(self) -> Any:
        key_token, secrets_token = current_key.set(self.idempotency_key), current_secrets.set(self._secrets)
        try:
            with self._collecting:
                if self.tool.cancellable:
                    return await self._invoke_cancellable()
                return await self.tool.function(*self._args, **self._kwargs)
        finally:
            current_key.reset(key_token)
            current_secrets.reset(secrets_token)

    async def _invoke_cancellable(self) -> Any:
        from rescind.guard.cancelling import Cancelling  # and with it asyncio, which synchronous programs do without

        cancelling = Cancelling(self.run, self.action)
        try:
            with cancelling:
                return await self.tool.function(*self._args, **self._kwargs)
        finally:
            self.cut_short = cancelling.reason

    def had_effect(self) -> None:
        """The tool has, or may have, changed something."""
        self._effect_began = True

    # --- after the effect ---

    def completed(self, result: Any) -> Completed:
        """The outcome to record. A result without a JSON form is not recorded, and the outcome says so."""
        watching = self.run.guard.watching
        if watching is not None and self._asked is not None:
            self._problem = self.tool.results.problem_with(result, watching.learned)
        try:
            recorded = record_value(self.action, "the result", result)
        except NotSerialisable:
            return Completed(None, result_recorded=False)
        scrubbed = scrub(recorded, self._secrets)
        # A result with something blotted out is for people to read; nobody may be given it for the real one.
        return Completed(scrubbed, result_recorded=scrubbed == recorded)

    def ended(self, outcome: Outcome, after: Snapshot | None) -> Draft:
        """The draft of the step's end."""
        self._outcome = outcome
        if isinstance(outcome, Unknown):
            self.run.doubts.add(self.step_id)
        if self._secrets and after is not None:
            # Only the version of an after-image is compared; its image is for people.
            after = msgspec.structs.replace(after, image=scrub(after.image, self._secrets))
        return self.draft(Ended(step_id=self.step_id, outcome=outcome, after=after))

    def draft(self, event: Event) -> Draft:
        """An event of this run, now."""
        return self.run.draft(event)

    def scrub(self, text: str) -> str:
        """The text without the secrets of this call."""
        cleaned: str = scrub(text, self._secrets)
        return cleaned

    def typed_result(self, recorded: Any) -> Any:
        """A recorded result in the type of the tool's annotation."""
        return self.tool.signature.typed_result(recorded)

    @property
    def verify(self) -> Callable[..., Any] | None:
        """The postcondition's handler, if there is one."""
        return self.tool.verifier

    def check_postcondition(self, result: Any, outcome: Completed, after: Snapshot | None) -> Any:
        """Ask the verifier. Arguments and result are the caller's own objects."""
        assert self.tool.verifier is not None
        return self.tool.verifier(
            PastStep(
                run=self.run.info,
                step_id=self.step_id,
                action=self.action,
                arguments=self._arguments,
                target=self._target,
                result=result,
                outcome=outcome,
                before_snapshot=self._before,
                after_snapshot=after,
                idempotency_key=self.idempotency_key,
            )
        )

    def _parent_name(self, ref: StepRef) -> str:
        return ref.step_id if ref.run_id == self.run.info.run_id else str(ref)
