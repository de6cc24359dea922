"""Who goes on with an undo that has not ended, in words, and what to type where nobody does."""

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from rescind.cli.moments import ago
from rescind.cli.stores import command_line
from rescind.clock import SystemClock
from rescind.recovery.places import appliers_of, register_of
from rescind.recovery.undos import OpenUndo, open_undos
from rescind.recovery.workers import working

if TYPE_CHECKING:
    from rescind.database.address import StoreAt
    from rescind.journal.port import Journal

LEFT = {"nobody": "the process that applied it has died", "no_worker": "no worker lives to go on with it"}
"""What is said of an undo that nobody goes on with, by `OpenUndo.holder`."""

_DIGITS = 16


def open_undos_of(journal: "Journal", store: "StoreAt") -> dict[str, OpenUndo]:
    """The undos of a store that have not ended, with who goes on with each, by the run of the plan.

    Plans that cannot be read are left out.
    """
    found = open_undos(journal, gaps=[], appliers=appliers_of(store), has_workers=partial(has_workers, store))
    return {undo.plan_run: undo for undo in found}


def has_workers(store: "StoreAt") -> bool:
    """Whether a worker of this store lives. Raises: EngineUnavailable, if nobody can tell."""
    with closing(register_of(store)) as register:
        return bool(working(register.look(now_us=SystemClock().now_us())))


def whose(undo: OpenUndo) -> str:
    """That nobody goes on with it, or since when nothing was heard of whoever does; empty if somebody lives."""
    heard = "" if undo.heard_at is None else f", last heard {ago(undo.heard_at)} ago"
    return "" if undo.is_held else f"{LEFT.get(undo.holder, 'whether it is being applied cannot be told')}{heard}"


def next_of(undo: OpenUndo, store: "StoreAt") -> str:
    """The command that goes on with it, or shows it where that cannot be told."""
    digits = undo.plan_digest[:_DIGITS]
    if undo.state == "paused":
        return command_line("plan", "resume", digits, store=store)
    if undo.holder == "no_worker":
        return command_line("worker", "--list", store=store)
    if undo.holder != "nobody":
        return command_line("plan", "follow", digits, store=store)
    from rescind.cli.undo_request import conditions_of
    from rescind.compensation.planning.redo import redone_by
    from rescind.compensation.planning.selection import Selection

    if (undone := redone_by(undo.selection)) is not None:
        return command_line("redo", undone[:_DIGITS], store=store) + " --app … --apply"
    try:
        chosen = msgspec.convert(undo.selection, Selection)
    except msgspec.ValidationError:  # a newer rescind's
        return command_line("plan", "show", digits, store=store)
    words = [word for name, value in conditions_of(chosen) for word in (f"--{name}", value)]
    cascade = ["--cascade"] if chosen.cascade else []
    return command_line("undo", *words, *cascade, store=store) + " --app … --apply"
