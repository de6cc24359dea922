"""A key of a mapping as an effect: dictionaries, shelves, and stores that look like them."""

import shelve
import threading
from collections import UserDict
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Protocol, cast

import msgspec

from rescind.compensation.effects.one_place import OnePlace, before_of, is_to_put_back
from rescind.errors import UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target, canonical_json

_JSON_SCALARS = (type(None), bool, int, float, str)


class Store(Protocol):
    """What is used of a mapping. A missing key raises KeyError."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __delitem__(self, key: Any, /) -> None: ...


class MappingKey(OnePlace):
    """One key of a mapping, before and after; the undo sets it back or deletes it.

        settings = shelve.open("settings")
        setting = MappingKey(settings, key=lambda user_id: f"plan:{user_id}", system="settings")

        @guard.write("plan.set", effect=setting)
        def set_plan(user_id: str, plan: str) -> None:
            settings[f"plan:{user_id}"] = plan

    Values must be JSON values, keys text or integers; anything else is refused before the tool runs. At the undo,
    looking and setting are one move for all users of this effect in this process; a store that other processes write to
    may change in between.

    A tool that raised is *failed* if the key is unchanged, and the mapping is a dictionary or a shelf. Of any other
    store nobody can say here whether it is a remote one, where a write whose reply was lost may still arrive; there
    it is unknown.
    """

    def __init__(self, mapping: Store, *, key: Callable[..., str | int], system: str = "mapping") -> None:
        """Guard keys of `mapping`.

        Args:
            mapping: The store.
            key: Which key, as a function of those of the tool's arguments that it names.
            system: What targets call the store.
        """
        super().__init__(key, role="key", system=system)
        self._mapping = mapping
        self._lock = threading.RLock()
        self._local = isinstance(mapping, dict | shelve.Shelf)
        self._defaults = isinstance(mapping, dict | UserDict)

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the store and the key."""
        return Target(self._system, "key", str(self._key_of(arguments)))

    def open(self, call: Call) -> "_KeyTouch":
        """See `Effect`."""
        key = self._key_of(call.arguments)
        return _KeyTouch(self, key, self.look(key))

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(step.before["key"]) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`. An image without a value, or None, is a key that is not there."""
        value = {"value": image["value"]} if image and "value" in image else {}
        return Snapshot.of({"key": step.before["key"], **value}, absent=not value)

    def restore(self, step: PastStep) -> None:
        """See `Effect`."""
        before = before_of(step, "the value from")
        key = before.image["key"]
        with self._lock:
            if not is_to_put_back(step, self.look(key), f"key {key!r} of {self._system}"):
                return
            if before.absent:
                del self._mapping[key]
            else:
                self._mapping[key] = _copy_of(before.image["value"])
            self.sync()

    def look(self, key: str | int) -> Snapshot:
        """The key now.

        Raises: UsageError, if its value is not made of JSON values.
        """
        with self._lock:
            try:
                # A dictionary with defaults would make the key by being asked for it.
                if self._defaults and key not in cast("Container[Any]", self._mapping):
                    raise KeyError(key)
                value = self._mapping[key]
            except KeyError:
                return Snapshot.of({"key": key}, absent=True)
            problem = _problem_of(value)
            if problem:
                raise UsageError(f"the value of key {key!r} of {self._system} cannot be kept exactly: {problem}")
            return Snapshot.of({"key": key, "value": _copy_of(value)})

    def sync(self) -> None:
        """Make what was written durable, where the mapping knows how."""
        sync = getattr(self._mapping, "sync", None)
        if callable(sync):
            sync()

    def unchanged_since(self, before: Snapshot) -> bool:
        """Whether the key is certainly as it was."""
        return self._local and self.look(before.image["key"]).version == before.version

    def _key_of(self, arguments: Mapping[str, Any]) -> str | int:
        key = self._named(arguments)
        if type(key) is not str and type(key) is not int:
            raise UsageError(f"key must be text or an integer, not {key!r}")
        if type(key) is str and not _is_writable(key):
            raise UsageError(f"key {key!r:.200} has half a character, which the journal cannot hold")
        return key


class _KeyTouch:
    """See `Touch`."""

    def __init__(self, effect: MappingKey, key: str | int, before: Snapshot) -> None:
        self.before = before
        self._effect, self._key = effect, key

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        self._effect.sync()
        return self._effect.look(self._key)

    def abandon(self) -> bool:
        """See `Touch`."""
        try:
            return self._effect.unchanged_since(self.before)
        except UsageError:  # something that cannot be kept is there now, so something changed
            return False


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy_of(value: Any) -> Any:
    # The store's own object would go on changing under the recorded image, and the image under the store.
    return msgspec.json.decode(canonical_json(value))


def _problem_of(value: Any) -> str:
    """Why the value is not made of JSON values; empty if it is."""
    kind = type(cast("object", value))
    if kind is list:
        return _first_problem(value)
    if kind is dict:
        odd = [key for key in value if not isinstance(key, str)]
        return f"the key {odd[0]!r} is no text" if odd else _first_problem(value.values())
    if kind not in _JSON_SCALARS:
        return f"a {kind.__qualname__} is no JSON value; store text, numbers, lists or dictionaries"
    try:
        intact = msgspec.json.decode(canonical_json(value)) == value
    except (ValueError, OverflowError, msgspec.MsgspecError) as error:
        return str(error)
    return "" if intact else f"{value} is no JSON number"


def _first_problem(values: Iterable[Any]) -> str:
    return next((problem for problem in map(_problem_of, values) if problem), "")
