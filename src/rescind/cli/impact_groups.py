"""An impact by runs: which run took in from which, so that thousands of steps become a tree that fits a screen."""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from rescind.compensation.planning.impact import Affected, Impact, Why

if TYPE_CHECKING:
    from rescind.model.entry import StepRef

Link = tuple[str, str, Why]
"""From a run, to a run, and why."""


class RunGroup(msgspec.Struct):
    """What an impact has of one run.

    Attributes:
        roots: How many of the chosen steps are its own.
        affected: Its affected steps, in order of intent.
        read: Targets that it has read, whether it wrote since or not.
        above: The run that it was found through; None for those of the roots.
        below: The runs that were found through it.
    """

    run_id: str
    roots: int = 0
    affected: list[Affected] = []
    read: list[str] = []
    above: str | None = None
    below: list[str] = []


class Grouped(msgspec.Struct, frozen=True):
    """All runs of an impact by id, each behind the one above it; and how many dependences lead from run to run."""

    runs: Mapping[str, RunGroup]
    links: Mapping[Link, int]


def group_by_run(impact: Impact) -> Grouped:
    """The impact, by runs. Nobody is above two others: a run hangs below the first that it was found through."""
    below: defaultdict[StepRef, list[Affected]] = defaultdict(list)
    for each in impact.affected:
        below[each.source].append(each)
    readers: defaultdict[StepRef, list[tuple[str, str]]] = defaultdict(list)
    for reader in impact.readers:
        readers[reader.source].append((reader.run_id, str(reader.target)))
    groups: dict[str, RunGroup] = {}
    links: Counter[Link] = Counter()
    left: deque[StepRef] = deque()
    for write in impact.roots:
        groups.setdefault(write.ref.run_id, RunGroup(write.ref.run_id)).roots += 1
        left.append(write.ref)
    while left:
        source = left.popleft()
        for each in below.get(source, ()):
            group = _below(groups, source.run_id, each.step.run_id)
            group.affected.append(each)
            links[source.run_id, each.step.run_id, each.why] += 1
            left.append(each.step)
        for run_id, target in readers.get(source, ()):
            group = _below(groups, source.run_id, run_id)
            group.read.append(target)
            links.setdefault((source.run_id, run_id, Why.READ), 0)
    for group in groups.values():
        group.affected.sort(key=lambda each: (each.begun, each.step))
    return Grouped(groups, links)


def _below(groups: dict[str, RunGroup], above: str, run_id: str) -> RunGroup:
    group = groups.get(run_id)
    if group is None:
        group = groups[run_id] = RunGroup(run_id, above=above)
        groups[above].below.append(run_id)
    return group
