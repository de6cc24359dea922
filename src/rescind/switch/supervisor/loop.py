"""The supervisor's loop: one thread that waits for signals, for the keeper, and for those who follow the orders.

It reads what they have left in memory and acts on it: between an order that is known and its SIGKILL there is no disk,
no network, and no lock that anybody holds for long.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import Clock
from rescind.switch.supervisor import news
from rescind.switch.supervisor.keeper import become_subreaper
from rescind.switch.supervisor.machine import Action, Fact, State, next_state
from rescind.switch.supervisor.news import News, Reason
from rescind.switch.supervisor.program import Program, Streams
from rescind.switch.supervisor.restart import STABLE_S, delay_s, exit_status, is_failure
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.supervisor.signals import Signals
from rescind.switch.supervisor.terminal import ASKING_FOR_IT, Terminal
from rescind.switch.wire import Ended

if TYPE_CHECKING:
    from rescind.model.order import Order

REFUSED = 75
"""Exit status of a start that an order forbids: EX_TEMPFAIL, try again later."""

_GRACE_S = 5.0

_IDLE_S = 0.25
"""How often silence is looked for. News ends the wait at once."""

_ASKED_S, _KILLING_S, _STUCK_S = 0.05, 0.01, 1.0
"""How often a program is looked at that is to end, and one that SIGKILL has not ended for a while."""

_PATIENCE_S = 2.0
"""After so long, SIGKILL has ended whatever it will end at once, and a keeper has collected it."""

_WISHES = frozenset((signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM))
"""What a person says who wants it to end. Only SIGTERM insists."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a program is supervised.

    Attributes:
        grace_s: From SIGTERM to SIGKILL.
        ends_on_silence: Whether it is ended when nobody can be heard who could stop it.
        starts_in_silence: Whether it is started then.
        restarts: Whether it is started again when it fails.
    """

    grace_s: float = _GRACE_S
    ends_on_silence: bool = True
    starts_in_silence: bool = False
    restarts: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How it went.

    Attributes:
        status: The exit status to hand on.
        outcome: `ended` by itself, `stopped` by an order, a silence or a person, or `refused`.
        reason: Why it was stopped or refused.
        ended: The programs that have ended, oldest first.
    """

    status: int
    outcome: str
    reason: Reason = Reason()
    ended: tuple[Ended, ...] = ()


class Supervisor:
    """Starts a program, watches over it, and ends it when it must not run. Made and run in the main thread."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        run: SupervisedRun,
        terms: Terms,
        *,
        signals: Signals,
        tell: Callable[[News], None],
        silence: Callable[[], str],
        clock: Clock,
        stdout: int = 1,
    ) -> None:
        """A supervisor that has started nothing.

        Args:
            command: The program and its arguments.
            environment: Its environment.
            run: What orders say about it.
            terms: When it is ended, and whether it is started again.
            signals: Entered already.
            tell: Called with what happens; must not wait.
            silence: Why nobody can be heard who could stop it, empty if somebody can; must not wait.
            clock: The time.
            stdout: The descriptor that becomes the program's standard output.
        """
        self._command, self._environment, self._run, self._terms = command, environment, run, terms
        self._signals, self._tell, self._silence, self._clock = signals, tell, silence, clock
        self._stdout = stdout
        self._terminal = Terminal()
        self._wish = 0  # the first signal by which a person wanted it to end
        self._insists = False
        self._told_unheeded: tuple[Order, ...] = ()
        self._told_silence = ""
        # Of one program:
        self._reason = Reason()
        self._asked_at_s = self._killed_at_s = 0.0
        self._how = "exited"
        self._stuck: tuple[int, ...] = ()
        self._others: dict[int, Ended] = {}

    def supervise(self) -> Result:
        """Start the program and return when nothing of it is left, and nothing is to be started again.

        Raises: UsageError, if it cannot be executed; OSError, if there is no keeper to be had.
        """
        become_subreaper()
        failures, again = 0, False
        while True:
            refusal = self._refusal()
            if refusal is not None:
                return self._refuse(refusal, again=again)
            began_s = self._clock.monotonic_s()
            ended, others = self._one_program()
            failures = 1 if self._clock.monotonic_s() - began_s >= STABLE_S else failures + 1
            delay = delay_s(failures) if self._is_to_be_repeated(ended) else None
            self._run.has_ended(ended, *others, for_good=delay is None)
            self._tell(news.Finished(ended, self._reason))
            if delay is None:
                return self._result(ended)
            self._tell(news.StartsAgain(delay, failures))
            refusal = self._wait_to_repeat(delay)
            if refusal is not None:
                return self._refuse(refusal, again=True)
            if self._wish:
                self._run.give_up()
                return self._result(ended)
            again = True

    # --- starting ---

    def _refusal(self) -> Reason | None:
        ruling = self._run.admit()
        if ruling.ending:
            return Reason(orders=ruling.ending)
        silence = self._silence()
        if silence and not self._terms.starts_in_silence:
            self._run.give_up()
            return Reason(silence=silence)
        return None

    def _refuse(self, reason: Reason, *, again: bool) -> Result:
        self._run.give_up()
        self._tell(news.Refused(reason, again))
        return Result(status=REFUSED, outcome="refused", reason=reason, ended=self._run.ended)

    def _is_to_be_repeated(self, ended: Ended) -> bool:
        return self._terms.restarts and is_failure(ended) and not self._wish and self._reason == Reason()

    def _wait_to_repeat(self, delay: float) -> Reason | None:
        until_s, has_told = self._clock.monotonic_s() + delay, False
        while not self._wish:
            if self._run.ruling.ending:
                return Reason(orders=self._run.ruling.ending)
            remaining_s = until_s - self._clock.monotonic_s()
            silence = self._silence() if remaining_s <= 0 and not self._terms.starts_in_silence else ""
            if remaining_s <= 0 and not silence:
                return None
            if silence and not has_told:
                has_told = True
                self._tell(news.Waits(silence))
            self._signals.wait(min(_IDLE_S, remaining_s) if remaining_s > 0 else _IDLE_S)
            self._take_signals(None)
        return None

    def _result(self, ended: Ended) -> Result:
        stopped = self._reason != Reason()
        return Result(
            status=exit_status(ended.status),
            outcome="stopped" if stopped else "ended",
            reason=self._reason,
            ended=self._run.ended,
        )

    # --- one program ---

    def _one_program(self) -> tuple[Ended, list[Ended]]:
        self._reason, self._how, self._stuck, self._others = Reason(), "exited", (), {}
        takes_terminal = self._terminal.goes_to_program
        streams = Streams(stdout=self._stdout, mask=self._signals.mask_before, takes_terminal=takes_terminal)
        program = Program(self._command, self._environment, streams)
        self._terminal.is_handed_over = takes_terminal
        try:
            self._follow(program)
        finally:
            program.close()  # whatever went wrong: the keeper ends what is left
            self._terminal.take_back()
        if program.failed:
            self._run.give_up()
            program.refuse_if_failed()
        # Without a status its keeper was killed before it could start anything.
        status = -signal.SIGKILL if program.status is None else program.status
        self._others.pop(program.pid, None)
        return Ended(pid=program.pid, how=self._how, status=status), list(self._others.values())

    def _follow(self, program: Program) -> None:
        state, has_started = State.RUNNING, False
        while state is not State.ENDED:
            program.look()
            if program.pid and not has_started:
                has_started = True
                self._tell(news.Started(program.pid))
            self._take_signals(program)
            self._mind_suspension(program, state)
            self._mind_what_it_cannot_obey()
            for fact in self._facts(program, state):
                state, action = next_state(state, fact)
                self._act(action, fact, program)
            if program.leader_left:
                program.release()
            if state is not State.ENDED:
                self._wait(program, state)

    def _facts(self, program: Program, state: State) -> Iterator[Fact]:
        if program.nothing_left:
            yield Fact.NOTHING_LEFT
            return
        if self._unwanted() != Reason():
            yield Fact.UNWANTED
        if program.leader_left:
            yield Fact.LEADER_LEFT
        if state is State.ASKED and self._is_useless_to_wait(program):
            yield Fact.USELESS_TO_WAIT
        if state is State.KILLING:
            yield Fact.STILL_THERE

    def _unwanted(self) -> Reason:
        orders = self._run.ruling.ending
        if orders:
            return Reason(orders=orders)
        silence = self._silence() if self._terms.ends_on_silence else ""
        if silence:
            return Reason(silence=silence)
        return Reason(signal=self._wish) if self._insists else Reason()

    def _is_useless_to_wait(self, program: Program) -> bool:
        if self._clock.monotonic_s() >= self._asked_at_s + self._terms.grace_s:
            return True
        living = program.living()
        return bool(living) and all(kin.is_suspended for kin in living)

    def _act(self, action: Action, fact: Fact, program: Program) -> None:
        if action is Action.ASK:
            self._ask(program, by_us=fact is Fact.UNWANTED)
        elif action is Action.KILL:
            self._kill(program, is_first=fact is Fact.USELESS_TO_WAIT)

    def _ask(self, program: Program, *, by_us: bool) -> None:
        living = self._note(program, "terminated", signal.SIGTERM)
        program.ask()
        self._asked_at_s = self._clock.monotonic_s()
        if by_us:
            self._reason = self._unwanted()
            if not program.leader_left:
                self._how = "terminated"
            if self._reason.orders or self._reason.silence:
                self._run.latch()
            self._tell(news.Asked(self._reason, self._terms.grace_s))
        elif living:
            self._tell(news.LeftBehind(living, self._terms.grace_s))

    def _kill(self, program: Program, *, is_first: bool) -> None:
        now_s = self._clock.monotonic_s()
        if is_first:
            self._killed_at_s = now_s
            suspended = now_s < self._asked_at_s + self._terms.grace_s
            if not program.leader_left:
                self._how = "killed"
            self._tell(news.Killed(suspended))
        living = self._note(program, "killed", signal.SIGKILL)
        program.kill()
        if now_s < self._killed_at_s + _PATIENCE_S:
            return
        if not living:
            program.kill_keeper()
        elif living != self._stuck:
            self._stuck = living
            self._tell(news.OutOfReach(living))

    def _note(self, program: Program, how: str, number: int) -> tuple[int, ...]:
        # A guard in one of them is known by its pid; once nothing is left, its receipt can say that it was ended. How
        # its own parent saw it end, only that one knows: its status is the signal that it was sent last.
        living = tuple(kin.pid for kin in program.living())
        self._others |= {pid: Ended(pid=pid, how=how, status=-number) for pid in living}
        return living

    def _wait(self, program: Program, state: State) -> None:
        timeout_s = {State.RUNNING: _IDLE_S, State.ASKED: _ASKED_S}.get(state, _KILLING_S)
        if state is State.ASKED:
            over_s = self._asked_at_s + self._terms.grace_s - self._clock.monotonic_s()
            timeout_s = min(timeout_s, max(0.0, over_s))
        if state is State.KILLING and self._stuck:
            timeout_s = _STUCK_S
        self._signals.wait(timeout_s, () if program.control is None else (program.control.fileno(),))

    # --- signals, terminal, and what cannot be obeyed ---

    def _take_signals(self, program: Program | None) -> None:
        if program is not None and not program.pid and not program.leader_left:
            return  # in a moment there will be somebody to pass them on to
        for number in self._signals.arrived():
            if number in _WISHES:
                self._wish = self._wish or number
                self._insists = self._insists or number == signal.SIGTERM
            if program is None or number in (signal.SIGCHLD, signal.SIGTSTP, signal.SIGTERM):
                continue
            if number == signal.SIGCONT:
                self._come_to_the_foreground(program)
            else:
                program.pass_on(number)

    def _come_to_the_foreground(self, program: Program) -> None:
        # `fg` of a shell that had put us into the background.
        if program.pid and self._terminal.goes_to_program:
            self._terminal.hand_over(program.pid)
        if program.stopped_by in ASKING_FOR_IT and self._terminal.is_handed_over:
            program.stopped_by = 0
            program.pass_on(signal.SIGCONT)

    def _mind_suspension(self, program: Program, state: State) -> None:
        stopped_by = program.stopped_by
        if not stopped_by or state is not State.RUNNING:  # who is to end is never continued
            return
        if stopped_by in ASKING_FOR_IT:
            if self._terminal.hand_over(program.pid):
                program.stopped_by = 0
                program.pass_on(signal.SIGCONT)
        else:
            program.stopped_by = 0
            if stopped_by == signal.SIGTSTP and self._terminal.is_handed_over and self._unwanted() == Reason():
                program.pass_on(signal.SIGCONT)
                self._tell(news.NotSuspended())

    def _mind_what_it_cannot_obey(self) -> None:
        unheeded = self._run.ruling.unheeded
        if unheeded != self._told_unheeded:
            self._told_unheeded = unheeded
            if unheeded:
                self._tell(news.Unheeded(unheeded))
        silence = "" if self._terms.ends_on_silence else self._silence()
        if bool(silence) != bool(self._told_silence):
            self._told_silence = silence
            if silence:
                self._tell(news.GoesOnInSilence(silence))
