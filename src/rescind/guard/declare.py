"""The decorators' other half: guarded functions, and the declarations that hang on them."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from rescind.errors import NoRun, UsageError
from rescind.guard.call import WriteCall
from rescind.guard.drive import drive, drive_async
from rescind.guard.flow import write_flow
from rescind.guard.results import Results
from rescind.guard.run import Run, current_run
from rescind.guard.tool import ReadTool, WriteTool
from rescind.guard.watched_read import WatchedRead, is_checking
from rescind.model.step import Target

if TYPE_CHECKING:
    from rescind.guard.guard import Guard

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])


class GuardedWrite(Protocol[P, R]):
    """A guarded write: called like the tool, and asked for its further declarations."""

    @property
    def tool(self) -> WriteTool:
        """The declaration."""
        ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the call, guarded.

        Raises:
            CallDenied: It was refused; the message is for a language model.
            RunHalted: The run is over.
            NotSerialisable, IdempotencyConflict, StepInDoubt, JournalUnavailable: It did not happen.
            OutcomeNotRecorded, VerificationFailed: It happened.
        """
        ...

    def keyed(self, key: str) -> Callable[P, R]:
        """The same call under an idempotency key: sent twice, it takes effect once."""
        ...

    def snapshot(self, handler: F) -> F:
        """Declare how to look at the target.

        Takes those of the tool's parameters that it names. Returns JSON values (None: there is nothing), or a
        `Snapshot` with a version of the target's own.
        """
        ...

    @overload
    def restore(self, handler: F) -> F: ...
    @overload
    def restore(self, *, parallel: bool) -> Callable[[F], F]: ...
    def restore(self, handler: Any = None, *, parallel: bool = False) -> Any:
        """Declare how to put back what was there: reversible. Takes a `PastStep`; its `before` is the snapshot's.

        With `parallel=True` you promise that an undo may call this and `.snapshot` for several targets at once, in
        several threads. Without it, no two handlers run at once: two that read, change and write one file would lose
        what the other wrote.
        """
        ...

    @overload
    def compensate(self, handler: F) -> F: ...
    @overload
    def compensate(self, *, idempotent: bool = ..., parallel: bool = ...) -> Callable[[F], F]: ...
    def compensate(self, handler: Any = None, *, idempotent: bool = False, parallel: bool = False) -> Any:
        """Declare how to offset the effect: compensatable. Takes a `PastStep`.

        With `idempotent=True` you promise that two calls with one `step.idempotency_key` have one effect; an undo that
        was killed in the middle then sends it again instead of asking a person. With `parallel=True` you promise that
        an undo may call it for several steps at once, in several threads.
        """
        ...

    @overload
    def probe(self, handler: F) -> F: ...
    @overload
    def probe(self, *, compensations: bool) -> Callable[[F], F]: ...
    def probe(self, handler: Any = None, *, compensations: bool = False) -> Any:
        """Declare how to ask the target system whether a call took effect. Takes a `PastStep`; changes nothing.

        Ask for `step.idempotency_key`, and return True, False or a `Probe`. An undo asks about steps without a known
        end: what was found counts as completed, with the `result` that the probe gives; what was not found never took
        effect, once `in_doubt_after` has passed. Anything else, and raising, leaves it to a person.

        With `compensations=True` you promise that it goes by the key: an undo then also asks whether a compensation
        that was begun has happened, by the key that `.compensate` got.
        """
        ...

    def merge(self, handler: F) -> F:
        """Declare how to take a step's part out of somebody's later change, for `on_conflict="merge"`.

        Takes a `PastStep`, with `before` and `after`, and the image that is there now; returns the image to put there,
        changing nothing itself, or raises `Conflict`. It may be called several times for one step.
        """
        ...

    def verify(self, handler: F) -> F:
        """Declare the postcondition. Takes a `PastStep`; returning False or raising says that it does not hold."""
        ...


def _run_of(guard: "Guard", action: str) -> Run:
    run = current_run.get()
    if run is None:
        raise NoRun(action)
    if run.guard is not guard:
        raise UsageError(f"{action} belongs to another guard than the current run {run.run_id}; use one guard for both")
    return run


def guarded_read(guard: "Guard", name: str, function: Callable[..., Any], returns: Any = None) -> Callable[..., Any]:
    """The function behind the gate. It is called with what the gate let through, and nothing is recorded."""
    results = Results(function, name, returns)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def read_async(*args: Any, **kwargs: Any) -> Any:
            run = _run_of(guard, name)
            run.admit(name, writes=False)
            if run.watch is None:
                return await function(*args, **kwargs)
            with WatchedRead(run, name, results, args, kwargs) as watched:
                result = await function(*args, **kwargs)
                watched.completed(result)
                return result

        return read_async

    @functools.wraps(function)
    def read(*args: Any, **kwargs: Any) -> Any:
        run = _run_of(guard, name)
        run.admit(name, writes=False)
        if run.watch is None:
            return function(*args, **kwargs)
        with WatchedRead(run, name, results, args, kwargs) as watched:
            result = function(*args, **kwargs)
            watched.completed(result)
            return result

    return read


def recorded_read(guard: "Guard", tool: ReadTool, guarded: Callable[..., Any]) -> Callable[..., Any]:
    """A guarded read whose target is journaled, once it has returned."""

    def target_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Run, Target | None]:
        # Before the read, which may change its arguments. What an invariant reads is not read by the run.
        return _run_of(guard, tool.name), None if is_checking.get() else tool.target_of(args, kwargs)

    if inspect.iscoroutinefunction(guarded):

        @functools.wraps(guarded)
        async def read_async(*args: Any, **kwargs: Any) -> Any:
            run, target = target_of(args, kwargs)
            result = await guarded(*args, **kwargs)
            if target is not None:
                run.reads.note(tool.name, target)
            return result

        return read_async

    @functools.wraps(guarded)
    def read(*args: Any, **kwargs: Any) -> Any:
        run, target = target_of(args, kwargs)
        result = guarded(*args, **kwargs)
        if target is not None:
            run.reads.note(tool.name, target)
        return result

    return read


def guarded_write(guard: "Guard", tool: WriteTool) -> Callable[..., Any]:
    """The tool behind gate and journal, with the declarations that may follow hanging on it."""

    def call(key: str | None) -> Callable[..., Any]:
        if tool.is_async:

            @functools.wraps(tool.function)
            async def write_async(*args: Any, **kwargs: Any) -> Any:
                run = _run_of(guard, tool.name)
                if run.reads.seen:
                    run.reads.flush()
                return await drive_async(write_flow(WriteCall(tool, run, args, kwargs, key)), guard.journal)

            return write_async

        @functools.wraps(tool.function)
        def write(*args: Any, **kwargs: Any) -> Any:
            run = _run_of(guard, tool.name)
            if run.reads.seen:
                run.reads.flush()
            return drive(write_flow(WriteCall(tool, run, args, kwargs, key)), guard.journal)

        return write

    def keyed(key: str) -> Callable[..., Any]:
        if not key:
            raise UsageError(f"{tool.name}: an idempotency key is a text that is not empty")
        return call(key)

    def restore(handler: Any = None, *, parallel: bool = False) -> Any:
        if handler is None:
            return functools.partial(restore, parallel=parallel)
        tool.set_restore(handler, parallel=parallel)
        return handler

    def compensate(handler: Any = None, *, idempotent: bool = False, parallel: bool = False) -> Any:
        if handler is None:
            return functools.partial(compensate, idempotent=idempotent, parallel=parallel)
        tool.set_compensate(handler, idempotent=idempotent, parallel=parallel)
        return handler

    def probe(handler: Any = None, *, compensations: bool = False) -> Any:
        if handler is None:
            return functools.partial(probe, compensations=compensations)
        tool.set_probe(handler, compensations=compensations)
        return handler

    wrapper: Any = call(None)
    wrapper.probe = probe
    wrapper.tool, wrapper.keyed, wrapper.restore, wrapper.compensate = tool, keyed, restore, compensate
    for declare in ("snapshot", "merge", "verify"):
        setattr(wrapper, declare, _declaring(getattr(tool, f"set_{declare}")))
    return cast("Callable[..., Any]", wrapper)


def _declaring(declare: Callable[[Any], None]) -> Callable[[F], F]:
    def decorator(handler: F) -> F:
        declare(handler)
        return handler

    return decorator
