"""What was asked of `rescind undo`, and how to ask it again."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rescind.cli.moments import spoken
from rescind.cli.safe import safe
from rescind.cli.stores import store_words
from rescind.compensation.planning.selection import Selection

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

DIGITS_SHOWN = 16
"""Digits of a digest in commands. As many name the run that a plan is recorded in, so a plan can be found by them."""


class UndoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one `rescind undo`.

    Attributes:
        selection: What to undo.
        as_typed: How `since` and `until` were typed; empty where they were not.
        app: `MODULE[:GUARD]`; None if none was given.
        store: What `--store` said; None if it was not given.
        apply: Whether to do it.
        shown: The digest, or its beginning, of the only plan to apply.
        stop_first: Whether to stop what may still write.
        sure: Whether to go without asking.
        within_s: Seconds after which no step is begun; None for what the configuration says.
        parallel: Steps at once; None for what the configuration says.
        workers: Whether to leave it to the workers, and without `app` the planning, too; None for what the
            configuration says.
        wait: Whether to wait for them.
        tree: Whether to draw the plan by dependency.
        every: Whether to list every step.
        actor: On whose behalf.
        reason: Why.
        force: Whether to overwrite later changes where their action allows it.
    """

    selection: Selection
    as_typed: dict[str, str]
    app: str | None
    store: "StoreAt | None"
    apply: bool
    shown: str | None
    stop_first: bool
    sure: bool
    within_s: float | None = None
    parallel: int | None
    workers: bool | None = None
    wait: bool = True
    tree: bool
    every: bool
    actor: str
    reason: str
    force: bool = False

    @property
    def verb(self) -> str:
        """What is asked for, as people say it."""
        return "undo"

    def command(self, *extra: str, store: "StoreAt") -> str:
        """The command line that asks for the same selection of this store again, with further words."""
        words = ["--force", "--reason", self.reason] if self.force else []
        words += ["--cascade"] if self.selection.cascade else []
        words += ["--app", self.app] if self.app else ["--workers"] if self.workers else []
        return self._line(self.verb, [*words, *store_words(store), *extra])

    def command_for(self, command: str, *, store: "StoreAt") -> str:
        """The command line of another command of ours about the same selection of this store."""
        return self._line(command, store_words(store))

    def _line(self, command: str, extra: Sequence[str]) -> str:
        words = ["rescind", command]
        for name, value in conditions_of(self.selection):
            # A time of day is another moment tomorrow, so it is repeated as what it was taken for.
            words += [f"--{name}", value]
        return " ".join(shlex.quote(safe(word)) for word in [*words, *extra])

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """What was selected, as people read it, such as `("since", "2026-11-21 06:00:00 +01:00")`; safe."""
        rows: list[tuple[str, str]] = []
        for name, value in conditions_of(self.selection):
            moment = getattr(self.selection, name, None) if name in self.as_typed else None
            if moment is None:
                rows.append((name, safe(value)))
            else:
                typed = self.as_typed[name]
                taken = "" if typed == value else f"  (from {safe(typed)})"
                rows.append((name, spoken(moment) + taken))
        return rows


def conditions_of(selection: Selection) -> list[tuple[str, str]]:
    """The options, without dashes, that choose so, each with its value."""
    moments = {"since": selection.since, "until": selection.until}
    return [
        *(("run", run_id) for run_id in selection.run_ids),
        *((name, value) for name, value in (("trace", selection.trace_id), ("agent", selection.agent)) if value),
        *((("tenant", selection.tenant),) if selection.tenant else ()),
        *((name, moment.isoformat()) for name, moment in moments.items() if moment is not None),
        *((("to-checkpoint", selection.to_checkpoint),) if selection.to_checkpoint else ()),
        *(("action", action) for action in selection.actions),
        *(("target", target) for target in selection.targets),
        *(("exclude", text) for text in selection.exclude),
    ]
