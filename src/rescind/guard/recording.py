"""What is recorded of a call: its arguments in the journal's form, without their secrets, and what names it by them.

What a person approves and what an undo reads is the record; what the tool gets are the arguments. Whether the two still
are the same is asked here, right before the tool runs.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.errors import NotSerialisable, UsageError
from rescind.guard.arguments import own_copy, record_arguments, record_value, refuse_secrets, scrub, secrets_of
from rescind.model.outcome import Completed
from rescind.model.step import Arguments, Snapshot, Step, Target, digest_of

if TYPE_CHECKING:
    from rescind.guard.tool import WriteTool
    from rescind.triggers.facts import ToolReport

current_secrets: ContextVar[set[str] | None] = ContextVar("rescind_secrets", default=None)
"""The redacted values of the guarded writes that are running here, one within the other."""


class Recording:
    """The arguments of one call of a write.

    Attributes:
        args, kwargs: As the tool gets them.
        arguments: The same by name.
        recorded: In the journal's form, redacted ones blotted out.
        target: What the call touches, as far as its arguments say it.
        key: The idempotency key that it was given, or that its arguments make; empty for none.
        digest: Of action and arguments, which an idempotency slot and an approval compare; empty until it is needed.
        secrets: Texts that must not reach the journal.
    """

    def __init__(self, tool: "WriteTool", args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None) -> None:
        self._tool, self._given_key = tool, key
        self.args, self.kwargs = args, kwargs
        self.arguments: dict[str, Any] = {}
        self.recorded: Arguments = {}
        self.target: Target | None = None
        self.key = ""
        self.digest = ""
        self.secrets: set[str] = set()
        self._hidden: tuple[str, ...] = ()

    @classmethod
    def of_step(cls, tool: "WriteTool", step: Step) -> "Recording":
        """Of a step that is on record already. Raises: TypeError, if the tool cannot be called like that any more."""
        recording = cls(tool, (), tool.signature.typed_arguments(step.arguments), None)
        recording.arguments = tool.signature.bind((), recording.kwargs)
        recording.recorded, recording.target = step.arguments, step.target
        recording.key = step.idempotency_key if step.keyed else ""
        return recording

    def record(self) -> None:
        """Bind the arguments and put them into the journal's form. Raises: NotSerialisable, TypeError, UsageError."""
        tool = self._tool
        self.arguments = tool.signature.bind(self.args, self.kwargs)
        unrecordable = tool.signature.unrecordable_result
        if unrecordable:
            remedy = "annotate a dataclass or JSON values, or leave the annotation out"
            problem = f"its type {unrecordable} has no JSON form; {remedy}"
            raise NotSerialisable(action=tool.name, name="the result", problem=problem)
        # One set for all calls of a nest: what an inner tool raises or returns may come out of the outer one.
        nest = current_secrets.get()
        self.secrets = set() if nest is None else nest
        self._hidden = secrets_of(self.arguments, tool.redact)
        self.secrets.update(self._hidden)
        self.recorded = self._as_recorded()
        if tool.hold is not None and (misfit := tool.signature.misfit(self.recorded)):
            raise UsageError(
                f"{tool.name} ({tool.place}) is held and made from the journal later, as its annotations say, and it "
                f"{misfit}. It was not held and will not be done; mend the argument or the annotation"
            )
        self.target = tool.target_of(self.arguments)
        key = self._given_key if self._given_key is not None else tool.key_of(self.arguments)
        if key is not None:
            if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
                raise UsageError(f"{tool.name}: an idempotency key is a text that is not empty, not {key!r}")
            self.key = key
            self.hash()
        if self.secrets:
            refuse_secrets(tool.name, "the target", str(self.target), self.secrets)
            refuse_secrets(tool.name, "the idempotency key", self.key, self.secrets)

    @property
    def public(self) -> Arguments:
        """The recorded arguments without the redacted ones."""
        redact = self._tool.redact
        if not redact:
            return self.recorded
        return {name: value for name, value in self.recorded.items() if name not in redact}

    def hash(self) -> None:
        """Fill in the digest."""
        self.digest = digest_of(self._tool.name, self.public)

    def is_as_recorded(self) -> bool:
        """Whether the arguments, redacted ones too, are still what they were when they were recorded."""
        return self._as_recorded() == self.recorded and self._hidden == secrets_of(self.arguments, self._tool.redact)

    def check_unchanged(self, *, is_approved: bool) -> None:
        """The arguments are still those of the intent; somebody may have changed a list while that became durable.

        Raises: UsageError.
        """
        containers = any(isinstance(value, list | dict | tuple) for value in self.recorded.values())
        if is_approved:
            self._take_copies()
        if (containers or is_approved) and not self.is_as_recorded():
            raise UsageError(
                f"{self._tool.name}: an argument was changed while its intent was being recorded, so the tool was not "
                "run; pass it a copy"
            )

    def _take_copies(self) -> None:
        # What a person has approved is executed with arguments that nobody else has in hand, so that what is compared
        # now is what the tool gets, whatever other threads do. Redacted ones stay: they need not even be values.
        kept = {id(self.arguments.get(name)) for name in self._tool.redact}
        self.args = tuple(value if id(value) in kept else own_copy(value) for value in self.args)
        self.kwargs = {name: value if id(value) in kept else own_copy(value) for name, value in self.kwargs.items()}
        self.arguments = self._tool.signature.bind(self.args, self.kwargs)

    def _as_recorded(self) -> Arguments:
        tool = self._tool
        recorded: Arguments = scrub(record_arguments(tool.name, self.arguments, tool.redact), self.secrets)
        return recorded

    # --- what else must be free of its secrets ---

    def scrub(self, text: str) -> str:
        """The text without the secrets of this call."""
        cleaned: str = scrub(text, self.secrets)
        return cleaned

    def refuse_secrets_before(self, before: Snapshot | None) -> None:
        """A before-image is restored from, so nothing in it can be blotted out. Raises: UsageError."""
        if self.secrets and before is not None:
            refuse_secrets(self._tool.name, "the snapshot", before.image, self.secrets)

    def scrubbed_after(self, after: Snapshot | None) -> Snapshot | None:
        """Only the version of an after-image is compared; its image is for people."""
        if not self.secrets or after is None:
            return after
        return msgspec.structs.replace(after, image=scrub(after.image, self.secrets))

    def completed(self, result: Any) -> Completed:
        """The outcome to record. A result without a JSON form is not recorded, and the outcome says so."""
        try:
            recorded = record_value(self._tool.name, "the result", result)
        except NotSerialisable:
            return Completed(None, result_recorded=False)
        scrubbed = scrub(recorded, self.secrets)
        # A result with something blotted out is for people to read; nobody may be given it for the real one.
        return Completed(scrubbed, result_recorded=scrubbed == recorded)

    def scrubbed_report(self, report: "ToolReport | None") -> "ToolReport | None":
        """What the tool said of itself; before a detector cuts its texts short: nobody recognises half a secret."""
        if report is None or not self.secrets:
            return report
        return msgspec.structs.replace(
            report,
            confidence=scrub(report.confidence, self.secrets),
            receipt=scrub(report.receipt, self.secrets),
            failed_parts=tuple(map(self.scrub, report.failed_parts)),
        )

    def difference(self, report: "ToolReport | None") -> str:
        """How what the tool observed differs from what was recorded, and approved if anybody had to; or empty."""
        for name, value in (report.observed if report is not None else {}).items():
            try:
                seen = scrub(record_value(self._tool.name, name, value), self.secrets)
            except NotSerialisable:
                return f"{name} was observed as something that cannot be recorded"
            if name not in self._tool.redact and seen != self.recorded.get(name):
                return f"{name} was observed as {seen!r:.80}, recorded as {self.recorded.get(name)!r:.80}"
        return ""
