"""What a guard's program declares: its tools, and what must hold over several systems."""

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from rescind.errors import DeclarationError, UsageError
from rescind.guard.declare import GuardedWrite, guarded_read, guarded_write, recorded_read
from rescind.guard.effect import Effect
from rescind.guard.tool import ReadTool, WriteTool, place_of
from rescind.model.action import IN_DOUBT_AFTER

if TYPE_CHECKING:
    from rescind.guard.guard import Guard
    from rescind.guard.invariants import Invariant

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Declarations:
    """The declarations of a guard, by name. The other parts of a guard are `Following` and `Guard` itself.

    Attributes:
        invariants: What must hold over several systems.
        spawning: Actions that start further runs.
    """

    def __init__(self) -> None:
        self.invariants: tuple[Invariant, ...] = ()
        self.spawning: set[str] = set()
        self._tools: dict[str, WriteTool | ReadTool] = {}
        self._checked = False

    @property
    def _guard(self) -> "Guard":
        return cast("Guard", self)  # it is never anything else

    def read(self, name: str, *, target: Callable[..., Any] | None = None, returns: Any = None) -> Callable[[F], F]:
        """Declare a tool that changes nothing. It goes on under `read_only`.

        With a target, that the run has read it is journaled, so that an undo can say who has acted on what was wrong
        (`rescind impact`). The read does not wait for that, and goes on if the journal is away. Without one, nothing is
        journaled.

        Args:
            name: Unique in this guard.
            target: Makes (system, kind, id) of those of the tool's arguments that it names; None for no record.
            returns: The shape of its results, if its annotation does not say: a type, or a JSON Schema.

        Raises: DeclarationError, if the name is taken.
        """

        def declare(function: F) -> F:
            tool = ReadTool(function, name, target=target)
            self._add(name, tool)
            guarded = guarded_read(self._guard, name, function, returns)
            return cast("F", guarded if target is None else recorded_read(self._guard, tool, guarded))

        return declare

    def write(
        self,
        name: str,
        *,
        target: Callable[..., Any] | None = None,
        key: Callable[..., str] | None = None,
        redact: Iterable[str] = (),
        irreversible: str | None = None,
        effect: Effect | None = None,
        after: Iterable[str] = (),
        undo_within: timedelta | None = None,
        cancellable: bool = False,
        spawns: bool = False,
        returns: Any = None,
        hold: timedelta | Literal["run"] | None = None,
        on_conflict: Literal["review", "skip", "force", "merge"] = "review",
        in_doubt_after: timedelta = IN_DOUBT_AFTER,
    ) -> Callable[[Callable[P, R]], GuardedWrite[P, R]]:
        """Declare a tool that changes something. Its effect class must be chosen before its first call.

        Args:
            name: Unique in this guard, such as `invoice.status.update`.
            target: Makes (system, kind, id) of those of the tool's arguments that it names.
            key: Makes the idempotency key of those arguments that it names; without it each call is its own.
            redact: Parameters whose values are kept out of the journal.
            irreversible: Why nobody can take it back. A person will decide.
            effect: A ready-made effect, such as `SqlRows`.
            after: Names of actions that this one's steps depend on, within a run: they are undone after it.
            undo_within: How long after a step its compensation is allowed.
            cancellable: Whether a halt of the run may cancel it while it runs; only for coroutines. Its outcome is then
                unknown, unless its effect vouches that nothing changed.
            spawns: Whether it starts further runs: a webhook that wakes a follow-up agent, a job that one picks up. It
                is refused where the fan-out of its run is blocked.
            returns: The shape of its results, if its annotation does not say: a type, or a JSON Schema. A result that
                differs is told to the policy.
            hold: Journal the call, answer it with a `HeldEffect`, and let a worker run the tool later: once the run has
                ended (`"run"`), or after this time. A stop or an undo of the run drops what is still held.
            on_conflict: What an undo does where somebody has changed the target after the step: leave it to a person,
                `skip` the step, `force` it over the later change if an approver says so and why, or `merge` by the
                `.merge` handler.
            in_doubt_after: So long after a call was begun or cut short, nothing of it can arrive at the target any
                more. Only then does a `.probe` that finds nothing mean that there was nothing.

        Raises: DeclarationError, if the name is taken or the declaration contradicts itself.
        """

        def declare(function: Callable[P, R]) -> GuardedWrite[P, R]:
            tool = WriteTool(
                function,
                name,
                target=target,
                key=key,
                redact=tuple(redact),
                irreversible=irreversible,
                effect=effect,
                after=tuple(after),
                undo_within=undo_within,
                cancellable=cancellable,
                spawns=spawns,
                returns=returns,
                hold=hold,
                on_conflict=on_conflict,
                in_doubt_after=in_doubt_after,
            )
            self._add(name, tool)
            if spawns:
                self.spawning.add(name)
            return cast("GuardedWrite[P, R]", guarded_write(self._guard, tool))

        return declare

    def invariant(self, name: str, *, after: Iterable[str] = (), every_s: float = 0.0) -> Callable[[F], F]:
        """Declare something that must hold over several systems, by a function that takes nothing and checks it.

        It returns whether it holds, or a text that says what does not; raising says so too. It is called in the thread
        of a write that has ended, in runs under a policy: keep it quick, or rare.

        Args:
            name: Unique in this guard, for people: `books and invoices agree`.
            after: Patterns of the actions whose writes it depends on; all by default.
            every_s: It is called at most once in so many seconds.

        Raises: DeclarationError, if the name is taken or the function cannot be called like that.
        """
        from rescind.guard.invariants import Invariant

        def declare(function: F) -> F:
            if inspect.iscoroutinefunction(function):
                raise DeclarationError(f"invariant {name!r} ({place_of(function)}) is a coroutine; make it a function")
            if any(each.name == name for each in self.invariants):
                raise DeclarationError(f"invariant {name!r} ({place_of(function)}) is declared twice; rename one")
            added = Invariant(name, function, after=tuple(after), every_s=every_s)
            self.invariants = (*self.invariants, added)
            return function

        return declare

    @property
    def compensators(self) -> dict[str, WriteTool]:
        """The declared writes by action name, each able to look at and undo its steps.

        Raises: DeclarationError, if one of them is not complete.
        """
        self.check()
        return {name: tool for name, tool in self._tools.items() if isinstance(tool, WriteTool)}

    def check(self) -> None:
        """Check that every declaration is complete. Raises: DeclarationError, which names the first that is not."""
        for tool in self._tools.values():
            if isinstance(tool, WriteTool):
                _ = tool.action

    def _add(self, name: str, tool: WriteTool | ReadTool) -> None:
        if not name or name != name.strip() or not name.isprintable():
            raise DeclarationError(f"{tool.place}: an action needs a printable name without blanks around it: {name!r}")
        if name in self._tools:
            raise DeclarationError(
                f"action {name!r} is declared twice: at {self._tools[name].place} and at {tool.place}; rename one"
            )
        self._tools[name] = tool
        self._checked = False

    def _known(self, allow: Iterable[str]) -> frozenset[str]:
        names = frozenset(allow)
        for name in sorted(names - set(self._tools)):
            raise UsageError(f"allow= names {name!r}, which is no action of this guard")
        return names
