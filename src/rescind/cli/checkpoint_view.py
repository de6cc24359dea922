"""Checkpoints of a run, drawn: which there are, from which it would be carried on, and why."""

from collections.abc import Mapping
from typing import Any

import msgspec

from rescind.cli.moments import to_the_second
from rescind.cli.out import Out
from rescind.cli.safe import safe, short
from rescind.cli.words import count_of
from rescind.recovery.checkpoint import Boundary, Story, knowledge_at
from rescind.recovery.resume import Choice

_STEPS_SHOWN = 8


def say_choice(story: Story, choice: Choice, out: Out) -> None:
    """From where the run is carried on, why from there, and what happens to each call after it."""
    for boundary, why_not in choice.refused:
        out.tell(f"{safe(boundary.name)}  not safe: {safe(why_not)}", behind=2, style="yellow")
    made = f"{safe(choice.boundary.name)}{_named(choice.boundary)}, {to_the_second(choice.boundary.at)}"
    out.tell(f"run {safe(story.run.run_id)} is carried on from {made}", behind=2, style="bold")
    out.say(f"  state: {safe(short(choice.boundary.checkpoint.state, 200))}")
    out.say(f"  {count_of(len(choice.answered), 'call')} since then stand, and are answered from the journal")
    out.say(f"  {count_of(len(choice.anew), 'call')} were undone or never took effect, and are made anew")


def say_boundaries(story: Story, problems: Mapping[str, str], chosen: str, out: Out) -> None:
    """Every checkpoint, with what was known there and whether it is safe."""
    for boundary in story.boundaries[1:]:
        why_not = problems[boundary.name]
        mark = "->" if boundary.name == chosen else "  "
        state = "safe" if not why_not else "not safe"
        out.say(f"{mark} {safe(boundary.name)}{_named(boundary)}  {to_the_second(boundary.at)}  {state}", style="bold")
        if why_not:
            out.tell(f"     {safe(why_not)}", behind=7, style="yellow")
        known = knowledge_at(story, boundary)
        counts = (
            (len(known.versions), "target", ""),
            (len(known.receipts), "receipt", ""),
            (len(known.irreversible), "irreversible step", ""),
            (len(known.undone), "step", " undone since"),
            (len(known.waiting), "open review task", ""),
        )
        told = ", ".join(f"{count_of(number, noun)}{more}" for number, noun, more in counts if number)
        out.tell(f"     {told or 'nothing was done before it'}", behind=5, style="dim")
        out.say(f"     state: {safe(short(boundary.checkpoint.state, 120))}", style="dim")


def boundary_as_json(story: Story, boundary: Boundary, problem: str) -> dict[str, Any]:
    """One checkpoint as an answer."""
    return {
        "checkpoint": msgspec.to_builtins(boundary.checkpoint),
        "at": boundary.at,
        "safe": not problem,
        "problem": problem,
        "known": msgspec.to_builtins(knowledge_at(story, boundary)),
    }


def choice_as_json(story: Story, choice: Choice) -> dict[str, Any]:
    """From where a run is carried on, as an answer."""
    return {
        "run_id": story.run.run_id,
        "checkpoint": boundary_as_json(story, choice.boundary, ""),
        "refused": [{"checkpoint_id": each.name, "problem": why_not} for each, why_not in choice.refused],
        "answered": [str(record.ref) for record in choice.answered],
        "anew": [str(record.ref) for record in choice.anew],
    }


def _named(boundary: Boundary) -> str:
    made = boundary.checkpoint
    return f" ({safe(made.name)})" if made.name and made.checkpoint_id else ""
