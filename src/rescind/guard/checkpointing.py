"""A run marks a boundary: what it would need to go on from here, and whether it is safe to do so.

CP1. *Durable or not there.* A checkpoint that was answered is in the run's chain, after everything that the run had
     recorded; one that could not be recorded raises, and nothing else changes.
CP2. *Verified means that it was looked.* It is verified if no step of the run is under way or in doubt, as far as this
     process knows, and every postcondition that was given and every invariant of the guard holds. Whatever raises does
     not hold.
CP3. *Not a write.* It changes nothing outside the journal, so no order refuses it; a run that is over makes none.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rescind.errors import UsageError
from rescind.guard.arguments import record_value
from rescind.model.entry import Checkpointed
from rescind.triggers.consistency import holds

if TYPE_CHECKING:
    from rescind.guard.run import Run
    from rescind.journal.port import Draft

Postcondition = Callable[[], object]
"""True, None or an empty text: it holds. False, or a text that says what is wrong: it does not. Raising: likewise."""

NAME_MAX = 200

DETAIL_MAX = 4_000
"""Characters of what does not hold that are recorded. Some exceptions carry whole documents."""


def drafts_of_checkpoint(
    run: "Run", state: Any, *, name: str, verify: Postcondition | None
) -> "tuple[Checkpointed, tuple[Draft, ...]]":
    """The checkpoint, judged now (CP2), and what has to be appended for it.

    Raises: UsageError, NotSerialisable.
    """
    if run.is_over:
        raise UsageError(f"run {run.run_id} is over; a checkpoint is made while it goes on")
    if len(name) > NAME_MAX or not name.isprintable():
        raise UsageError(f"a checkpoint's name is printable and has at most {NAME_MAX} characters, not {name!r:.80}")
    problems = list(_problems(run, verify))
    event = Checkpointed(
        checkpoint_id=run.guard.ids.new_id("cp"),
        name=name,
        state=record_value("run.checkpoint", "the state", state),
        verified=not problems,
        detail="; ".join(problems)[:DETAIL_MAX].encode(errors="replace").decode(),
    )
    opening = run.opening_with_intent()
    draft = run.draft(event)
    return event, (draft,) if opening is None else (opening, draft)


def _problems(run: "Run", verify: Postcondition | None) -> list[str]:
    under_way = sorted(ref.step_id for ref in list(run.guard.in_flight_steps) if ref.run_id == run.run_id)
    problems = [f"step {step_id} is under way" for step_id in under_way]
    problems += [f"nobody knows whether step {step_id} took effect" for step_id in sorted(run.doubts)]
    problems += [each for invariant in run.guard.invariants if (each := invariant.problem())]
    if verify is not None:
        problem = _problem_of(verify)
        problems += [problem] if problem else []
    return problems


def _problem_of(verify: Postcondition) -> str:
    try:
        answer = verify()
    except Exception as error:  # noqa: BLE001  # what cannot be checked does not hold
        # The kind of error and no more: its text may hold what is to be kept out of the journal.
        return f"its postcondition could not be checked: {type(error).__name__}"
    if holds(answer):
        return ""
    return answer if isinstance(answer, str) else "its postcondition does not hold"
