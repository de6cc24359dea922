"""What drives the flows of an undo: one thread that decides, appends and keeps time, and a crew that calls handlers.

    begin ─▶ intents of all that begin ─┐
                                        ├─▶ one append, durable ─▶ handlers, in the crew ─▶ ends ─┐
    ends of all that came back ─────────┘                                                         └─▶ next append

Because one thread appends, what comes up while the disk is busy goes into the next append together: that is the group
commit. The end of a step and the intents of those that waited for it are one append, too: all of it is durable or
nothing is, and no handler of theirs is called before. So a step of a chain costs one commit and not two.

Because flows do no I/O, a step that waits for another try holds nothing but its own few objects: it has no thread, and
no place among the steps that are under way.
"""

import contextvars
import functools
import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rescind.clock import Clock
from rescind.compensation.decision import PlanItem
from rescind.compensation.execution.crew import Crew
from rescind.compensation.execution.requests import Ending, Go, Intend, Record, Request, UndoFlow, Wait
from rescind.compensation.execution.schedule import Schedule, system_of
from rescind.compensation.execution.stopping import Stop, Stopping
from rescind.compensation.execution.systems import Systems, is_trouble
from rescind.errors import JournalUnavailable
from rescind.model.entry import CompensationEnded, Event, StepRef

LOOK_EVERY_S = 0.5
"""How often somebody's order to pause or cancel is looked for. It is to be obeyed within about a second."""

PAUSE_MIN_S = 0.001  # A rounding error must not become a loop that keeps a core busy.


class Work(Protocol):
    """What is known of the steps, and what is recorded about them. Only the runner's thread asks it."""

    def end_at_once(self, item: PlanItem) -> Ending | None:
        """The item's turn has come. How it ends, if nothing is to be tried; this may be asked again."""
        ...

    def flow_of(self, item: PlanItem) -> UndoFlow:
        """What is to be tried."""
        ...

    def perform(self, request: Request, item: PlanItem) -> Any:
        """Do what a flow asks for. The one method that is called in the crew's threads."""
        ...

    def append(self, events: Sequence[tuple[StepRef, Event]]) -> tuple[int, ...]:
        """Append events to the runs of their steps, all or none, and say where. Raises: JournalUnavailable."""
        ...

    def is_first(self, step: StepRef, sequence: int) -> bool:
        """Whether this step is ours, by the intent that stands there (U10)."""
        ...

    def is_late(self, item: PlanItem) -> bool:
        """Whether the moment has passed until which the step could be undone."""
        ...

    def ends(self, item: PlanItem, event: CompensationEnded) -> None:
        """This end of the item goes into the next append: what waited for it may be intended there, behind it."""
        ...

    def end(self, item: PlanItem, ending: Ending) -> None:
        """The item has come to this end."""
        ...

    @property
    def is_holding(self) -> bool:
        """Whether steps are deferred that may be turned to."""
        ...

    def turn_to_deferred(self) -> bool:
        """Nothing is ready or under way. Whether something is, now."""
        ...


class _Active:
    """A step between its begin and its end."""

    __slots__ = ("context", "flow", "is_ending", "item", "system")

    def __init__(self, item: PlanItem, flow: UndoFlow) -> None:
        self.item, self.flow, self.system = item, flow, system_of(item)
        # The handlers see the context variables of whoever applies the plan, each step a copy of its own.
        self.context = contextvars.copy_context()
        self.is_ending = False
        """Whether only its end is to be recorded: then it keeps nobody from beginning."""


class Runner:
    """Carries out what a schedule holds.

    Args:
        work: What is known of the steps.
        schedule: What may begin when.
        systems: Which systems take a step.
        stopping: What may stop the undo, or hold it.
        clock: The time, and waiting when there is nothing else to do.
        parallel: Steps under way at once.
    """

    def __init__(
        self, work: Work, schedule: Schedule, systems: Systems, stopping: Stopping, clock: Clock, *, parallel: int
    ) -> None:
        self._work, self._schedule, self._systems = work, schedule, systems
        self._stopping, self._clock, self._parallel = stopping, clock, parallel
        self._under_way = 0
        self._ended_at_once: Ending | None = None
        self._to_append: list[tuple[_Active, Intend | Record]] = []
        self._to_call: list[tuple[_Active, Request]] = []
        self._waiting: list[tuple[float, int, _Active]] = []
        self._due: list[_Active] = []
        self._numbers = itertools.count()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Go on until nothing is left that could be done, or until somebody stops it.

        Raises: whatever a handler raised that is no `Exception`, and `JournalUnavailable`; the steps that were under
        way have come to their end first, as far as they could.
        """
        with Crew[_Active](self._parallel) as crew:
            while self._round(crew):
                pass
        if self._failure is not None:
            raise self._failure

    def _round(self, crew: Crew[_Active]) -> bool:
        """Do what can be done at once, or wait for something to happen. Whether anything is left."""
        stop = self._look()
        self._go_on(crew, 0.0)
        self._wake(stop, crew)
        if stop is Stop.NO:
            self._begin()
        if self._to_append:
            self._append(crew)
        elif self._to_call:
            self._call(crew)
        elif crew.busy:
            self._go_on(crew, self._pause_s())
        elif self._is_to_come(stop):
            self._clock.sleep(self._pause_s())
        else:
            return stop is Stop.NO and not self._systems.lost and self._work.turn_to_deferred()
        return True

    def _look(self) -> Stop:
        if self._failure is None:
            try:
                return self._stopping.look()
            except JournalUnavailable as error:
                self._failure = error
        return Stop.END

    def _is_to_come(self, stop: Stop) -> bool:
        """Whether something can be done later, although nothing can be done now."""
        if stop is Stop.END:
            return False
        if self._waiting or self._due or self._free_in_s() is not None:
            return True
        return stop is Stop.HOLD and (bool(self._schedule.ready_systems) or self._work.is_holding)

    def _free_in_s(self) -> float | None:
        names = self._schedule.ready_systems | {active.system for active in self._due}
        return self._systems.free_in_s(names, self._clock.monotonic_s())

    def _pause_s(self) -> float:
        """How long nothing needs to be looked at, unless a handler comes back."""
        waits = [LOOK_EVERY_S, self._stopping.left_s()]
        waits += [due_s - self._clock.monotonic_s() for due_s, _, _ in self._waiting[:1]]
        waits += [free_in_s] if (free_in_s := self._free_in_s()) is not None else []
        return max(PAUSE_MIN_S, min(waits))

    # --- begin ---

    def _begin(self) -> None:
        """Begin what may begin. What waited for ends that are to be appended calls nothing until they are durable."""
        while self._under_way < self._parallel and (item := self._schedule.next(self._takes)) is not None:
            if self._ended_at_once is not None:
                ending, self._ended_at_once = self._ended_at_once, None
                self._schedule.pause(item.step)
                self._work.end(item, ending)
                continue
            self._under_way += 1
            active = _Active(item, self._work.flow_of(item))
            self._drive(active, functools.partial(next, active.flow), None)

    def _takes(self, item: PlanItem) -> bool:
        self._ended_at_once = self._work.end_at_once(item)
        return self._ended_at_once is not None or self._systems.begin(system_of(item), self._clock.monotonic_s())

    # --- go on ---

    def _drive(self, active: _Active, step: Callable[[], Request], crew: Crew[_Active] | None) -> None:
        """Let the flow take a step, and see to it that what it asks for comes about: without a crew, later."""
        try:
            request = step()
        except StopIteration as done:
            self._drop(active)
            self._work.end(active.item, done.value)
        except JournalUnavailable as error:
            self._fail(active, error)
        else:
            self._see_to(request, active, crew)

    def _see_to(self, request: Request, active: _Active, crew: Crew[_Active] | None) -> None:
        match request:
            case Intend() | Record():
                if isinstance(request.event, CompensationEnded):
                    self._drop(active)
                    active.is_ending = True
                    self._work.ends(active.item, request.event)
                self._to_append.append((active, request))
            case Wait(duration_s):
                self._under_way -= 1
                self._systems.wait(active.system)
                self._schedule.pause(active.item.step)
                due_s = self._clock.monotonic_s() + duration_s
                heapq.heappush(self._waiting, (due_s, next(self._numbers), active))
            case _:
                self._to_call.append((active, request))
                if crew is not None:
                    self._call(crew)

    def _call(self, crew: Crew[_Active]) -> None:
        """Have the crew do what flows have asked for."""
        calls, self._to_call = self._to_call, []
        for active, request in calls:
            crew.call(active, active.context, functools.partial(self._work.perform, request, active.item))

    def _go_on(self, crew: Crew[_Active], timeout_s: float) -> None:
        """Take what handlers have come back with; wait for the first one for so long."""
        for active, answer, error in crew.take(timeout_s):
            if error is not None and not isinstance(error, Exception):
                self._fail(active, error)
                continue
            if error is not None and is_trouble(error):
                self._systems.troubled(active.system, error, self._clock.monotonic_s())
            else:
                self._systems.answered(active.system)
            throw, send = active.flow.throw, active.flow.send
            step = functools.partial(send, answer) if error is None else functools.partial(throw, error)
            self._drive(active, step, crew)

    def _append(self, crew: Crew[_Active]) -> None:
        batch, self._to_append = self._to_append, []
        try:
            sequences = self._work.append([(active.item.step, request.event) for active, request in batch])
        except JournalUnavailable as error:
            calls, self._to_call = self._to_call, []
            for active, _ in [*batch, *calls]:
                self._fail(active, error)
            return
        for (active, request), sequence in zip(batch, sequences, strict=True):
            mine = isinstance(request, Intend) and (
                not request.is_first_try or self._work.is_first(active.item.step, sequence)
            )
            self._drive(active, functools.partial(active.flow.send, mine), crew)
        self._call(crew)

    # --- wait ---

    def _wake(self, stop: Stop, crew: Crew[_Active]) -> None:
        """Let those go on whose time has come, or who will have no turn any more."""
        now_s = self._clock.monotonic_s()
        if lost := self._systems.take_lost():
            self._due += [active for _, _, active in self._waiting if active.system in lost]
            self._waiting = [entry for entry in self._waiting if entry[2].system not in lost]
            heapq.heapify(self._waiting)
        while self._waiting and (self._waiting[0][0] <= now_s or stop is Stop.END):
            self._due.append(heapq.heappop(self._waiting)[2])
        if stop is not Stop.HOLD and self._due:
            self._due = [active for active in self._due if not self._resume(active, stop, now_s, crew)]

    def _resume(self, active: _Active, stop: Stop, now_s: float, crew: Crew[_Active]) -> bool:
        go = self._go_of(active, stop)
        if go is Go.ON:
            if self._under_way >= self._parallel or not self._schedule.resume(active.item.step):
                return False
            if not self._systems.resume(active.system, now_s):
                self._schedule.pause(active.item.step)
                return False
            self._under_way += 1
        else:
            self._systems.give_up(active.system)
            active.is_ending = True
        self._drive(active, functools.partial(active.flow.send, go), crew)
        return True

    def _go_of(self, active: _Active, stop: Stop) -> Go:
        if stop is Stop.END or active.system in self._systems.lost:
            return Go.LEAVE
        return Go.LATE if self._work.is_late(active.item) else Go.ON

    # --- end ---

    def _drop(self, active: _Active) -> None:
        """The step is not under way any more."""
        if not active.is_ending:
            self._under_way -= 1
            self._systems.end(active.system)
            self._schedule.pause(active.item.step)

    def _fail(self, active: _Active, error: BaseException) -> None:
        self._failure = self._failure or error
        self._drop(active)
        active.flow.close()
