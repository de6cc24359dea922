"""A graph of Python objects as an effect: what tools that keep their state in memory change."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rescind.compensation.effects.object_change import Change, Contents, Edit, Move, Way
from rescind.compensation.effects.object_shadow import Part, Shadow
from rescind.compensation.effects.object_writers import Writers
from rescind.errors import Conflict, Transient, UsageError
from rescind.guard.effect import Call, PastStep, Probe
from rescind.model.action import EffectClass
from rescind.model.probe import Found
from rescind.model.step import Snapshot, Target

if TYPE_CHECKING:
    from rescind.compensation.effects.object_parts import Kind

_PLACES_MAX = 50  # that the journal lists of one call
_NAMED_MAX = 10  # that a message names
_SIDES = ("before", "after")  # what a call's part of the graph can be brought back to


class ObjectGraph:
    """Everything that some objects lead to, before and after a call; the undo puts back what the call changed.

        bank = Bank()
        state = ObjectGraph(bank)

        @guard.write("account.transfer", effect=state)
        def transfer(source: str, target: str, cents: int) -> None:
            bank.transfer(source, target, cents)

    For tools that are methods of objects with state: attributes (slots, dataclasses, models of pydantic), dictionaries,
    lists, deques, sets, bytearrays, arrays, buffers (`io.BytesIO`, `io.StringIO`) and generators of random numbers,
    nested as you like. What a call changed is found by looking, so nobody declares it, and a call that changed nothing
    leaves nothing to undo, whatever its name. Objects keep their identity and their type: an alias stays one.

    The undo goes cell by cell (an attribute, a key, a member), and merges lists. What others have written to other
    cells stays. If they wrote to the same cell, even if its value is the same again by now, edited a list at the same
    place, or changed an object that the call made, it is a conflict that names the place, and nothing is changed. With
    `counters`, attributes that only number things go back if nobody has counted on, and stay otherwise.

    Looking costs time with the size of the graph, well below a microsecond a cell; what is kept of a call, and what
    its undo costs, goes with the size of the change and of the lists in it. Guarded calls on one graph are made one
    after the other; if two overlap nevertheless, as tasks of one event loop can, nobody can tell whose change is whose,
    and their undo is a conflict. A change that no guarded call made counts as somebody else's, if it is made between
    two calls.

    The journal holds where a call changed something, and no values: those are kept here and die with the process, as
    the objects do. A step of another process goes to a person.

    Not seen: attributes of classes, modules and functions, the closures of functions, and what objects of other
    libraries' C code hold; the latter are refused before the tool runs, unless `ignore` names their type.
    """

    parallel = True

    def __init__(
        self,
        *roots: Any,
        name: str = "objects",
        counters: Iterable[str] = (),
        ignore: Iterable[type] = (),
        objects_max: int = 1_000_000,
        calls_max: int = 10_000,
    ) -> None:
        """Guard what `roots` lead to.

        Args:
            roots: The objects.
            name: What targets call them.
            counters: Attributes that number things, such as `next_id`.
            ignore: Types whose inner state does not matter.
            objects_max: How many objects there may be; more are refused before a tool runs.
            calls_max: Of how many calls the changes are kept; older ones go to a person.
        """
        self._root, self._name = roots, name
        self._counters, self._ignore = frozenset(counters), tuple(ignore)
        self._objects_max, self._calls_max = objects_max, calls_max
        self._prefix = secrets.token_hex(6)
        self._count = 0
        self._shadow: Shadow | None = None
        self._changes: OrderedDict[str, Change | None] = OrderedDict()
        self._writers = Writers(self._counters)
        self._open: list[_GraphTouch] = []
        self._unfinished: list[Move] = []
        self._turn = threading.Lock()  # held by the call in progress
        self._lock = threading.Lock()

    @property
    def effect_class(self) -> EffectClass:
        """Reversible: what was there is put back."""
        return EffectClass.REVERSIBLE

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of every call: the graph."""
        return Target("memory", "objects", self._name)

    def open(self, call: Call) -> "_GraphTouch":
        """See `Effect`.

        Raises: UsageError, if there are too many objects, or one that cannot be looked into.
        """
        touch = _GraphTouch(self)
        touch.take_turn(self._turn, self._open)
        try:
            with self._lock:
                self._finish()
                self.look()
                if not self._open:
                    self._refreshed().refresh()
                self._count += 1
                touch.token = f"{self._prefix}-{self._count}"
                self._open.append(touch)
        except BaseException:
            touch.give_turn()
            raise
        _open_touches.set((*_open_touches.get(), touch))
        return touch

    def close(self, touch: "_GraphTouch") -> Change:
        """The call has ended: what it changed. It is kept."""
        _open_touches.set(tuple(each for each in _open_touches.get() if each is not touch))
        try:
            with self._lock:
                self._changes[touch.token] = None
                while len(self._changes) > self._calls_max:
                    oldest, forgotten = self._changes.popitem(last=False)
                    if forgotten is not None:
                        self._writers.forget(oldest, forgotten)
                try:
                    self.look()
                finally:
                    self._open.remove(touch)
                change = touch.change(self._counters)
                change.around = touch.around
                if change.is_empty or not touch.is_mixed:
                    self._changes[touch.token] = change
                    self._writers.add(touch.token, change)
                return change
        finally:
            touch.give_turn()

    def look(self) -> None:
        """Find what has changed, and tell it to the calls in progress. Under the lock."""
        edits, made = self._refreshed().changed()
        for touch in self._open:
            touch.take(edits, made)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`. Raises: UsageError, if what the step changed is not known here."""
        if step.before_snapshot is None:
            return None
        token = _token_of(step.before_snapshot)
        with self._lock:
            self._finish()
            return self._seen(token, self._state(token, self._change_of(token)))

    def probe(self, step: PastStep) -> Probe | Found:
        """See `Probing`. What a call changed is known also of one that raised, or whose end nobody recorded."""
        if step.before_snapshot is None:
            return Probe.CANNOT_TELL
        token = _token_of(step.before_snapshot)
        with self._lock:
            self._finish()
            if self._changes.get(token) is None:
                return Probe.CANNOT_TELL
            change = self._change_of(token)
            if self._state(token, change) == "before":
                return Probe.NOT_FOUND
            # Also if others have written to the same cells since: that it happened is certain, and how it left them.
            return Found(after=self.after(token, change))

    def restore(self, step: PastStep) -> None:
        """See `Effect`."""
        if step.before_snapshot is None:
            raise Conflict("nothing was recorded of the call, so there is nothing to put back")
        token, wanted = _token_of(step.before_snapshot), step.before_snapshot.version.rpartition(":")[2]
        left = step.after_snapshot
        if wanted not in _SIDES or (left is not None and not left.version.endswith(_SIDES)):
            raise Conflict(
                "not as the step left it; what a call changed goes back as a whole, and over no later change"
            )
        with self._lock:
            self._finish()
            if self._open:
                raise Transient(f"a call on {self._name} is in progress; nothing was changed")
            try:
                change = self._change_of(token)
            except UsageError as error:
                raise Conflict(str(error)) from error
            if self._state(token, change) != wanted:
                if self._is_out_with_another(change):
                    raise Conflict("it was part of a call that is undone; put that call's effect back instead")
                self._unfinished = self._moves(token, change, back=wanted == "before")
                self._finish()

    def _moves(self, token: str, change: Change, *, back: bool) -> list[Move]:
        ways = change.ways(back=back)
        strange = [place for way in ways for place in way.conflicts()] + list(change.overwritten(back=back))
        strange = strange or list(self._writers.after(token, change, self._are_related))
        if strange:
            more = f" and {len(strange) - _NAMED_MAX} more" if len(strange) > _NAMED_MAX else ""
            raise Conflict(f"not as the step left it, so nothing was changed: {', '.join(strange[:_NAMED_MAX])}{more}")
        moves = [move for way in ways for move in way.moves()]

        def went() -> None:
            change.went(ways, self._refreshed(), back=back)
            (self._writers.take_out if back else self._writers.add)(token, change)

        return [*moves, went]

    def _finish(self) -> None:
        """Do what there is to do, or what an interrupted restore has left; every move may be made twice."""
        for move in self._unfinished:
            move()
        self._unfinished = []

    def _is_out_with_another(self, change: Change) -> bool:
        """Whether the call that this one was part of, or one further out, was taken back as a whole."""
        around = self._changes.get(change.around)
        return around is not None and (around.is_out or self._is_out_with_another(around))

    def _are_related(self, one: str, other: str) -> bool:
        return other in self._around(one) or one in self._around(other)

    def _around(self, token: str) -> Iterator[str]:
        change = self._changes.get(token)
        while change is not None and change.around:
            yield change.around
            change = self._changes.get(change.around)

    def _state(self, token: str, change: Change) -> str:
        if self._is_out_with_another(change):
            return "before"
        if not change.is_out and any(self._writers.after(token, change, self._are_related)):
            return "changed"
        ways = change.ways(back=True)
        if all(map(Way.is_back, ways)):
            return "before"
        if all(map(Way.is_there, ways)) and not any(change.overwritten(back=True)):
            return "after"
        return "changed"

    def _seen(self, token: str, state: str) -> Snapshot:
        return Snapshot.of({"objects": self._name, "call": token, "state": state}, version=f"{token}:{state}")

    def before(self, token: str) -> Snapshot:
        """What is recorded before a call."""
        return self._seen(token, "before")

    def after(self, token: str, change: Change) -> Snapshot:
        """What is recorded after it: where something changed, and no values."""
        if change.is_empty:
            return self.before(token)
        image = {"objects": self._name, "call": token, "changed": change.places(_PLACES_MAX)}
        return Snapshot.of(image, version=f"{token}:after")

    def _change_of(self, token: str) -> Change:
        if token not in self._changes:
            raise UsageError(
                f"what the step changed in {self._name} is not known here: it was made in a process that has ended, or "
                f"more than {self._calls_max:,} calls ago"
            )
        change = self._changes[token]
        if change is None:
            raise UsageError(
                f"another call on {self._name} overlapped with the step; nobody can tell whose change is whose"
            )
        return change

    def _refreshed(self) -> Shadow:
        if self._shadow is None:
            self._shadow = Shadow(self._root, self._name, objects_max=self._objects_max, ignore=self._ignore)
        return self._shadow


class _GraphTouch:
    """See `Touch`."""

    def __init__(self, graph: ObjectGraph) -> None:
        self.token = self.around = ""
        self.is_mixed = False
        self._graph, self._thread = graph, threading.get_ident()
        self._turn: threading.Lock | None = None
        self._edits: dict[tuple[int, Kind], Edit] = {}
        self._made: dict[tuple[int, Kind], Part] = {}

    @property
    def before(self) -> Snapshot:
        """See `Touch`."""
        return self._graph.before(self.token)

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        return self._graph.after(self.token, self._graph.close(self))

    def abandon(self) -> bool:
        """See `Touch`."""
        return self._graph.close(self).is_empty

    def take_turn(self, turn: threading.Lock, others: "list[_GraphTouch]") -> None:
        """Wait until no other call is in progress, unless this one is part of it, or waiting would be for ever."""
        # A task that was started in a call, and outlives it, has it in its context still, and is no part of it.
        around = [each.token for each in _open_touches.get() if each in others]
        if around:
            self.around = around[-1]
            return
        beside = [each for each in others if each._thread == self._thread]
        if beside:  # tasks of one event loop: to wait here is to let nobody go on
            for each in (self, *beside):
                each.is_mixed = True
            return
        turn.acquire()
        self._turn = turn
        for each in others:  # tasks of another thread, which have no turn
            each.is_mixed = self.is_mixed = True

    def give_turn(self) -> None:
        """Let the next call go on."""
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    def take(self, edits: list[Edit], made: list[Part]) -> None:
        """Something has changed while this call was in progress."""
        for part, old, new in edits:
            key = (id(part.holder), part.kind)
            if key not in self._made:
                first = self._edits.get(key)
                self._edits[key] = (part, old if first is None else first[1], new)
        self._made |= {(id(part.holder), part.kind): part for part in made}

    def change(self, counters: frozenset[str]) -> Change:
        """All of it."""
        made: Contents = [(part, part.copy) for part in self._made.values()]
        return Change(self._edits.values(), made, counters)


_open_touches: ContextVar[tuple[_GraphTouch, ...]] = ContextVar("rescind_graph_touches", default=())
"""The calls that the running code is part of, innermost last."""


def _token_of(snapshot: Snapshot) -> str:
    return snapshot.version.rpartition(":")[0]
