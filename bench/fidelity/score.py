"""Does tasks under a guard, undoes them, and says what became of the world.

Each way of doing a task is a *mode*. A task counts only if its calls had their full effect first: the state that the
guarded calls left, and what they returned, must be those of bare calls.
"""

import contextvars
import enum
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fidelity.contents import NotJudged
from bench.fidelity.environments import Answers, Around, Invoke, Task, Tool, Tools, World, as_it_is
from bench.fidelity.likeness import hash_of
from bench.fidelity.ownership import START, Ownership
from rescind.clock import SystemIds
from rescind.compensation.effects import ObjectGraph
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.result import UndoResult
from rescind.guard.effect import Effect
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Journal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Disposition
from rescind.switch.memory import MemoryOrders
from rescind.testing import FaultyJournal, ManualClock

MakeEffect = Callable[[Any], Effect]
"""The declaration that all tools of a world share."""


class Verdict(enum.StrEnum):
    """What became of the world."""

    EXACT = "exact"  # as if the undone run had never been
    KEPT = "kept"  # what the other run really wrote is there, and of the undone run nothing
    REPORTED = "reported"  # as a conflict, to a person; nothing of the other run is lost
    SILENTLY_WRONG = "silently wrong"
    NO_EFFECT = "not counted"  # guarded calls did not do what bare ones do
    NOT_JUDGED = "not judged"


class Kinship(enum.StrEnum):
    """How two runs on one environment have to do with each other."""

    APART = "no shared object"
    OTHER_CELLS = "shared objects, other cells"
    DEPENDENT = "one depended on the other"
    CONTENDED = "one cell written by both"


@dataclass(frozen=True)
class Judgement:
    """What one task came to in one mode."""

    task: str
    mode: str
    verdict: Verdict
    detail: str = ""
    changed: bool = True
    steps: int = 0
    kinship: Kinship | None = None
    by_snapshot: Verdict | None = None


class AnswerLost(Exception):
    """The call took effect, and its answer was lost."""


class Killed(BaseException):
    """The run's program dies in the middle of a call."""


class Scorer:
    """Scores tasks."""

    def __init__(self, *, effect: MakeEffect = ObjectGraph, around: Around = as_it_is) -> None:
        """How every tool is declared, and what makes time logical inside of one."""
        self._effect, self._around = effect, around

    def modes(self) -> Mapping[str, Callable[[Task], Judgement]]:
        """The ways of doing a task alone, by name."""
        return {
            "solo": self.solo,
            "killed": self.killed,
            "killed in a call": self.killed_in_a_call,
            "answer lost": self.answer_lost,
            "transparent": self.transparent,
            "redo": self.redo,
        }

    def judged(self, mode: Callable[[Task], Judgement], task: Task, name: str) -> Judgement:
        """The judgement, or why there is none."""
        try:
            return mode(task)
        except NotJudged as error:
            return Judgement(task.name, name, Verdict.NOT_JUDGED, str(error))

    # --- a run alone ---

    def solo(self, task: Task) -> Judgement:
        """All calls, then the undo."""
        world, start = self._opened(task)
        guarded = _Guarded(self, world, MemoryJournal())
        with guarded.guard.run("agent@1", run_id="one"):
            answers = _do(world.calls[0], guarded.tools("one"))
        return self._undone(task, "solo", guarded, start, self._had_effect(task, world, answers))

    def killed(self, task: Task) -> Judgement:
        """Half of the calls, and the run is never ended. Somebody else opens its journal later, and undoes it.

        The objects live on, as those of a service do whose agent has died.
        """
        world, start = self._opened(task)
        half = (len(world.calls[0]) + 1) // 2
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal.db"
            effect = self._effect(world.state)
            with closing(SqliteJournal(path)) as journal:
                guarded = _Guarded(self, world, journal, effect)
                one = contextvars.copy_context()
                one.run(guarded.guard.run("agent@1", run_id="one").__enter__)
                answers = one.run(_do, world.calls[0][:half], guarded.tools("one"))
            with closing(SqliteJournal(path)) as journal:
                later = _Guarded(self, world, journal, effect)
                had = self._had_effect(task, world, answers, half)
                return self._undone(task, "killed", later, start, had)

    def killed_in_a_call(self, task: Task) -> Judgement:
        """As before, but the last call of the half takes effect and dies before its end is in the journal."""
        world, start = self._opened(task)
        half, dead = (len(world.calls[0]) + 1) // 2, False
        journal, effect = MemoryJournal(), self._effect(world.state)
        guarded = _Guarded(self, world, FaultyJournal(journal, lambda _: dead), effect)

        def die() -> None:
            nonlocal dead
            dead = True
            raise Killed

        one = contextvars.copy_context()
        one.run(guarded.guard.run("agent@1", run_id="one").__enter__)
        answers = one.run(_do, world.calls[0][: half - 1], guarded.tools("one"))
        with suppress(Killed):
            one.run(_do, world.calls[0][half - 1 : half], guarded.tools("one", half - 1, then=die))
        had = dead and self._had_effect(task, world, answers, half)
        return self._undone(task, "killed in a call", _Guarded(self, world, journal, effect), start, had)

    def answer_lost(self, task: Task) -> Judgement:
        """All calls, and the last one times out after it has taken effect."""
        world, start = self._opened(task)
        guarded = _Guarded(self, world, MemoryJournal())

        def lose() -> None:
            raise AnswerLost

        with guarded.guard.run("agent@1", run_id="one"):
            answers = _do(world.calls[0][:-1], guarded.tools("one"))
            with suppress(AnswerLost):
                world.calls[0][-1](guarded.tools("one", len(world.calls[0]) - 1, then=lose))
        return self._undone(task, "answer lost", guarded, start, self._had_effect(task, world, answers))

    def transparent(self, task: Task) -> Judgement:
        """Guarded calls against bare ones: what they return at once and in the end, with all aliases, and the state."""
        bare, world = self._fresh(task), self._fresh(task)
        wanted = _do(bare.calls[0], self.bare_tools(bare, "one"))
        guarded = _Guarded(self, world, MemoryJournal())
        start = hash_of(world.state)
        with guarded.guard.run("agent@1", run_id="one"):
            found = _do(world.calls[0], guarded.tools("one"))
        is_same = found.hashes == wanted.hashes and hash_of(world.state, found.objects) == hash_of(
            bare.state, wanted.objects
        )
        return Judgement(
            task.name,
            "transparent",
            Verdict.EXACT if is_same else Verdict.SILENTLY_WRONG,
            "" if is_same else _first_difference(found, wanted),
            changed=hash_of(world.state) != start,
            steps=len(world.calls[0]),
        )

    def redo(self, task: Task) -> Judgement:
        """The same calls after the undo: they return the same, and leave the same state."""
        world, start = self._opened(task)
        guarded = _Guarded(self, world, MemoryJournal())
        with guarded.guard.run("agent@1", run_id="one"):
            first = _do(world.calls[0], guarded.tools("one"))
        left = hash_of(world.state)
        had = self._had_effect(task, world, first)
        judged = self._undone(task, "redo", guarded, start, had)
        if judged.verdict is not Verdict.EXACT:
            return judged
        with guarded.guard.run("agent@1", run_id="two"):
            second = _do(world.calls[0], guarded.tools("one"))
        is_same = second.hashes == first.hashes and hash_of(world.state) == left
        if is_same:
            return judged
        return Judgement(task.name, "redo", Verdict.SILENTLY_WRONG, _first_difference(second, first))

    def _undone(self, task: Task, mode: str, guarded: "_Guarded", start: str, had_effect: bool) -> Judgement:
        changed = hash_of(guarded.world.state) != start
        result = guarded.undo("one")
        verdict, detail = Verdict.EXACT, ""
        if not had_effect:
            verdict, detail = Verdict.NO_EFFECT, "guarded calls did not do what bare ones do"
        elif problem := _problem(result):
            verdict, detail = Verdict.REPORTED, problem
        elif hash_of(guarded.world.state) != start:
            verdict = Verdict.SILENTLY_WRONG
        return Judgement(task.name, mode, verdict, detail, changed=changed, steps=len(result.steps))

    def _had_effect(self, task: Task, world: World, answers: Answers, count: int | None = None) -> bool:
        bare = self._fresh(task)
        wanted = _do(bare.calls[0][:count], self.bare_tools(bare, "one"))
        known = len(answers.hashes)
        return answers.hashes == wanted.hashes[:known] and hash_of(bare.state) == hash_of(world.state)

    # --- two runs ---

    def pair(self, task: Task, *, undone: int) -> Judgement:
        """Two runs take turns call by call, and one of them (0 or 1) is undone."""
        name, other = ("one", "two")[undone], ("one", "two")[1 - undone]
        bare, alone, world = self._fresh(task), self._fresh(task), self._fresh(task)
        start = hash_of(world.state)
        theirs = Ownership(bare.state)
        wanted = _take_turns(bare, {run: self.bare_tools(bare, run) for run in ("one", "two")}, theirs.note)
        alone_answers = _do(alone.calls[1 - undone], self.bare_tools(alone, other))
        guarded = _Guarded(self, world, MemoryJournal())
        ours = Ownership(world.state)
        contexts = {run: contextvars.copy_context() for run in ("one", "two")}
        for run, context in contexts.items():
            context.run(guarded.guard.run("agent@1", run_id=run).__enter__)
        found = _take_turns(world, {run: guarded.tools(run) for run in contexts}, ours.note, contexts)
        had_effect = hash_of(world.state) == hash_of(bare.state) and all(
            found[run].hashes == wanted[run].hashes for run in found
        )
        theirs.take_out(name)
        alone_hash, kept_hash = hash_of(alone.state), hash_of(bare.state)
        depended = alone_answers.hashes != wanted[other].hashes or alone_hash != kept_hash
        kinship = _kinship(theirs, name, other, depended=depended)
        result = guarded.undo(name)
        verdict, detail = Verdict.SILENTLY_WRONG, "nothing was reported"
        if not had_effect:
            verdict, detail = Verdict.NO_EFFECT, "guarded calls did not do what bare ones do"
        elif problem := _problem(result):
            verdict, detail = (Verdict.REPORTED if ours.keeps(other) else Verdict.SILENTLY_WRONG), problem
        elif (left := hash_of(world.state)) in (alone_hash, kept_hash):
            verdict, detail = (Verdict.EXACT if left == alone_hash else Verdict.KEPT), ""
        return Judgement(
            task.name,
            "pair",
            verdict,
            detail,
            steps=len(result.steps),
            kinship=kinship,
            by_snapshot=Verdict.EXACT if start == alone_hash else Verdict.SILENTLY_WRONG,
        )

    # --- worlds and tools ---

    def _fresh(self, task: Task) -> World:
        with self._around(START, 0):
            return task.fresh()

    def _opened(self, task: Task) -> tuple[World, str]:
        world, twin = self._fresh(task), self._fresh(task)
        start = hash_of(world.state)
        if start != hash_of(twin.state) or start != hash_of(deepcopy(world.state)):
            raise NotJudged("two fresh worlds, or a world and its deep copy, are not alike")
        return world, start

    def bare_tools(self, world: World, run: str) -> Tools:
        """The tools as they are, in logical time."""
        count = _Count(0)
        return {name: self.in_time(tool, run, count) for name, tool in world.tools.items()}

    def in_time(self, tool: Tool, run: str, count: "_Count", then: Tool | None = None) -> Tool:
        """The tool at a time of its own; `then` is done after its effect, whatever comes of it."""

        @functools.wraps(tool)
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                with self._around(run, count.next()):
                    result = tool(*args, **kwargs)
            except Exception:
                if then is None:
                    raise
                return then()
            return result if then is None else then()

        return called

    @property
    def effect(self) -> MakeEffect:
        """How tools are declared."""
        return self._effect


class _Count:
    def __init__(self, first: int) -> None:
        self._next = first

    def next(self) -> int:
        self._next += 1
        return self._next - 1


class _Guarded:
    """A world, and a guard before it. Every tool is a write, by one declaration that says nothing about it."""

    def __init__(self, scorer: Scorer, world: World, journal: Journal, effect: Effect | None = None) -> None:
        self.world, self._scorer = world, scorer
        self._clock = ManualClock()
        self.guard = Guard.over(journal, MemoryOrders(), clock=self._clock)
        effect = effect or scorer.effect(world.state)
        self._timed: dict[str, Tool] = {}
        self._declared = {name: self._declare(name, tool, effect) for name, tool in world.tools.items()}

    def _declare(self, name: str, tool: Tool, effect: Effect) -> Tool:
        @functools.wraps(tool)
        def called(*args: Any, **kwargs: Any) -> Any:
            return self._timed[name](*args, **kwargs)

        return self.guard.write(name, effect=effect)(called)

    def tools(self, run: str, first: int = 0, then: Tool | None = None) -> Tools:
        """The guarded tools, to be called by this run, from its so manieth call on."""
        count = _Count(first)
        timed = {name: self._scorer.in_time(tool, run, count, then) for name, tool in self.world.tools.items()}

        def bound(name: str, declared: Tool) -> Tool:
            @functools.wraps(declared)
            def called(*args: Any, **kwargs: Any) -> Any:
                self._timed = timed
                return declared(*args, **kwargs)

            return called

        return {name: bound(name, declared) for name, declared in self._declared.items()}

    def undo(self, run: str) -> UndoResult:
        """Undo it, as `rescind undo --run RUN --apply` does."""
        journal, compensators = self.guard.journal, self.guard.compensators
        plan = make_plan(journal, Selection(run_ids=(run,)), compensators, self._clock)
        return apply_plan(plan, journal, compensators, self._clock, SystemIds(), actor="bench", reason="fidelity")


def _do(calls: Sequence[Invoke], tools: Tools) -> Answers:
    answers = Answers()
    for call in calls:
        _answer(call, tools, answers)
    return answers


def _answer(call: Invoke, tools: Tools, answers: Answers) -> None:
    try:
        result = call(tools)
    except Exception as error:  # noqa: BLE001  # what a tool raises is an answer too
        result = (type(error).__qualname__, str(error))
    answers.hashes.append(hash_of(result))
    answers.objects.append(result)


def _take_turns(
    world: World,
    tools: Mapping[str, Tools],
    note: Callable[[str], None],
    contexts: Mapping[str, contextvars.Context] | None = None,
) -> dict[str, Answers]:
    answers = {run: Answers() for run in tools}
    for run, call in _alternating(dict(zip(tools, world.calls, strict=True))):
        if contexts is None:
            _answer(call, tools[run], answers[run])
        else:
            contexts[run].run(_answer, call, tools[run], answers[run])
        note(run)
    return answers


def _alternating(calls: Mapping[str, list[Invoke]]) -> Iterator[tuple[str, Invoke]]:
    for number in range(max(map(len, calls.values()))):
        for run, own in calls.items():
            if number < len(own):
                yield run, own[number]


def _kinship(ownership: Ownership, undone: str, other: str, *, depended: bool) -> Kinship:
    if ownership.is_contended(undone, other):
        return Kinship.CONTENDED
    if depended:
        return Kinship.DEPENDENT
    return Kinship.OTHER_CELLS if ownership.touched(undone) & ownership.touched(other) else Kinship.APART


def _problem(result: UndoResult) -> str:
    left = [step for step in result.steps if step.disposition in (None, Disposition.REVIEW)]
    return "; ".join(f"{step.action}: {step.reason} {step.detail}" for step in left[:3])


def _first_difference(found: Answers, wanted: Answers) -> str:
    for number, (one, other) in enumerate(zip(found.hashes, wanted.hashes, strict=True)):
        if one != other:
            return f"call {number + 1} returned {found.objects[number]!r:.200}, not {wanted.objects[number]!r:.200}"
    return "the answers are the same, and the state is not"
