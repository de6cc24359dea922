"""One write call: what the flow asks of it, with the run, the tool and the arguments at hand."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import from_us
from rescind.errors import UsageError
from rescind.guard.asking import use_of
from rescind.guard.effect import Call, PastStep
from rescind.guard.gate import AwaitApproval
from rescind.guard.held import HeldEffect, NoTouch, listing_of
from rescind.guard.intending import intended_step
from rescind.guard.invoking import Invocation, idempotency_key
from rescind.guard.probing import hand_back
from rescind.guard.recording import Recording
from rescind.guard.request import Returned
from rescind.guard.strand import Strand, strand_of
from rescind.guard.tool import WriteTool
from rescind.journal.port import Appended, Draft, SlotClaim
from rescind.model.approval import Approval, approval_id_of
from rescind.model.entry import Ended, Event, Intended, Released, StepRef
from rescind.model.outcome import Completed, Outcome, Unknown
from rescind.model.step import Arguments, HeldUntil, Snapshot, Step, Target
from rescind.triggers.facts import End

if TYPE_CHECKING:
    from datetime import datetime

    from rescind.guard.run import Run
    from rescind.guard.watching import Asked
    from rescind.model.history import StepRecord
    from rescind.switch.probes import Claim

__all__ = ["WriteCall", "idempotency_key"]


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
        self._recording = Recording(tool, args, kwargs, key)
        self._invocation = Invocation(tool, run)
        self.idempotency_key = ""
        self.step_id = ""
        self._strand: Strand | None = None
        self._ref = StepRef(run.info.run_id, "")
        self._parents: tuple[StepRef, ...] = ()
        self._before: Snapshot | None = None
        self._effect_began = False
        self.awaits: AwaitApproval | None = None  # why a person has to approve it, if one has to
        self.approval: Approval | None = None  # what it is begun with then
        self.verified: bool | None = None
        self._outcome: Outcome | None = None
        self._asked: Asked | None = None  # what detectors were told of it
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
        """Bind the arguments and put them into the journal's form. Raises: NotSerialisable, TypeError, UsageError."""
        self._recording.record()
        self.idempotency_key = self._recording.key

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
        self._asked = self.run.asked(
            self.action,
            writes=True,
            arguments=self._recording.public,
            target=self.target,
            spawns=self.tool.spawns,
        )

    def check_unchanged(self) -> None:
        """The arguments are still those of the intent. Raises: UsageError."""
        self._recording.check_unchanged(is_approved=self.approval is not None)

    def hash_arguments(self) -> None:
        """Fill in the digest of action and arguments, which an idempotency slot and an approval compare."""
        self._recording.hash()

    @property
    def step_is_keyed(self) -> bool:
        """Whether the call has an idempotency key of the caller's or its arguments'."""
        return bool(self._recording.key)

    @property
    def arguments_digest(self) -> str:
        """Of action and arguments; empty until somebody needs it."""
        return self._recording.digest

    # --- a person's approval; see `asking` ---

    @property
    def recorded(self) -> Arguments:
        """The arguments as they are recorded, redacted ones blotted out."""
        return self._recording.recorded

    @property
    def target(self) -> Target | None:
        """What the call touches, as far as its arguments say it."""
        return self._recording.target

    def approval_id(self, number: int) -> str:
        """The id of the approval that is asked for this very call for the time with this number."""
        return approval_id_of(self.run.info.run_id, self.arguments_digest, self.target, number)

    def is_as_recorded(self) -> bool:
        """Whether the arguments, redacted ones too, are still what they were when they were recorded."""
        return self._recording.is_as_recorded()

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
            arguments=self._recording.arguments,
            target=self.target,
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
            hand_back(self.run.guard, self._probe, succeeded=is_good if self._invocation.began else None)
        if self._asked is not None and self._outcome is not None and self._invocation.began:
            self.run.ended(self._end(self._asked, self._outcome), secrets=self._recording.secrets)

    def _end(self, asked: "Asked", outcome: Outcome) -> End:
        said = self._invocation.collecting.report
        asked.step_id = self.step_id  # only now: until it has ended, detectors know the call as it was asked for
        return End(
            call=asked,
            at_s=self.run.guard.clock.boot_s(),
            outcome=outcome,
            verified=self.verified,
            report=self._recording.scrubbed_report(said),
            problem=self.scrub(self._problem) if self._problem else "",
            approved_differs=self._recording.difference(said),
        )

    def intent(self, before: Snapshot | None) -> tuple[Draft, ...]:
        """The drafts that make the intent durable; the first of a run opens it too."""
        self._before = before
        self._recording.refuse_secrets_before(before)
        now_us = self.run.guard.clock.now_us()
        until = self._held_until(now_us) if self.is_held else None
        step = intended_step(
            self, declared=self._declared, parents=self._parents, before=before, held_until=until, now_us=now_us
        )
        claim = None
        if self.step_is_keyed:
            claim = SlotClaim(self.run.info.tenant, self.idempotency_key, self.arguments_digest)
        draft = Draft(run_id=self.run.info.run_id, event=Intended(step), recorded_at_us=now_us, claim=claim)
        drafts = (draft,) if self.approval is None else (draft, *use_of(self, self.approval))
        if self.is_held:
            drafts = (*drafts, *listing_of(self.run, self._ref, self.action))
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

    @classmethod
    def of_held(cls, tool: WriteTool, run: "Run", record: "StepRecord") -> "WriteCall":
        """The call of a step that was held, to be released: bound again from what the journal has of it.

        Raises: TypeError, if the tool cannot be called like that any more.
        """
        step = record.step
        call = cls(tool, run, (), {}, None)
        call._declared = tool.action
        call._recording, call.idempotency_key = Recording.of_step(tool, step), step.idempotency_key
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
        if self._asked is not None:  # its duration is the tool's: it may have waited for a person
            self._asked.at_s = self.run.guard.clock.boot_s()
        return self._invocation.invoke(self._recording, self.idempotency_key)

    @property
    def cut_short(self) -> str:
        """Why the tool was cancelled, if a halt of the run did it."""
        return self._invocation.cut_short

    def had_effect(self) -> None:
        """The tool has, or may have, changed something."""
        self._effect_began = True

    # --- after the effect ---

    def completed(self, result: Any) -> Completed:
        """The outcome to record. A result without a JSON form is not recorded, and the outcome says so."""
        watching = self.run.guard.watching
        if watching is not None and self._asked is not None:
            self._problem = self.tool.results.problem_with(result, watching.learned)
        return self._recording.completed(result)

    def ended(self, outcome: Outcome, after: Snapshot | None) -> Draft:
        """The draft of the step's end."""
        self._outcome = outcome
        if isinstance(outcome, Unknown):
            self.run.doubts.add(self.step_id)
        return self.draft(Ended(step_id=self.step_id, outcome=outcome, after=self._recording.scrubbed_after(after)))

    def draft(self, event: Event) -> Draft:
        """An event of this run, now."""
        return self.run.draft(event)

    def scrub(self, text: str) -> str:
        """The text without the secrets of this call."""
        return self._recording.scrub(text)

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
                arguments=self._recording.arguments,
                target=self.target,
                result=result,
                outcome=outcome,
                before_snapshot=self._before,
                after_snapshot=after,
                idempotency_key=self.idempotency_key,
            )
        )
