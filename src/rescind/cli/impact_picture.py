"""An impact as a picture: SVG with nothing outside of it, and an HTML page around it.

Boxes stand in columns: the chosen steps at the left, and to the right of each what was found through it. While there
are few steps each has a box; beyond that each run has one. What does not fit is counted in words. All names come from
agents and targets, so all text is escaped, and what XML cannot hold is shown as its escape.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import msgspec

from rescind.cli.impact_groups import group_by_run
from rescind.cli.impact_view import WORDS, reach_lines
from rescind.cli.safe import short
from rescind.cli.words import count_of
from rescind.compensation.planning.impact import Impact, Why
from rescind.model.entry import StepRef

BOXES_MAX = 60
"""Boxes of one picture. More are no picture any more."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _TOP = 230, 54, 90, 16, 24, 64
_LINE_MAX = 33  # Characters of a line in a box, at 11 pixels.
_TITLE_MAX = 500

_COLOURS = {"root": ("#fde8e8", "#b42318"), "affected": ("#fff6e0", "#b54708"), "undone": ("#f2f4f7", "#667085")}
_DASHES = {Why.READ: "", Why.OVERWROTE: "7 4", Why.CAUSED: "2 4"}
_LINES = {Why.READ: "#175cd3", Why.OVERWROTE: "#b42318", Why.CAUSED: "#475467"}

_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#101828;background:#fff}"
    "table{border-collapse:collapse;margin-top:1.5rem}"
    "td,th{border:1px solid #d0d5dd;padding:.25rem .6rem;text-align:left;vertical-align:top}"
    "figure{margin:0;overflow-x:auto}"
)


class _Box(msgspec.Struct, frozen=True):
    lines: tuple[str, ...]
    kind: str


class _Picture(msgspec.Struct, frozen=True):
    """Boxes by name, each after the one above it; arrows from name to name; and what was left out, in words."""

    boxes: Mapping[str, _Box]
    arrows: Sequence[tuple[str, str, Why, str]]
    above: Mapping[str, str]
    left_out: str


def svg_of(impact: Impact) -> str:
    """The picture as an SVG document."""
    picture = _by_step(impact) if len(impact.roots) + len(impact.affected) <= BOXES_MAX else _by_run(impact)
    places, columns, rows = _laid_out(picture)
    width = max(560, 2 * _MARGIN + columns * (_WIDTH + _GAP_X) - _GAP_X)
    height = _TOP + rows * (_HEIGHT + _GAP_Y) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11">',
        f"<title>{_xml(_summary(impact))}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *_legend(picture.left_out),
        *(_arrow(places[a], places[b], why, label) for a, b, why, label in picture.arrows),
        *(_drawn(box, places[name]) for name, box in picture.boxes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def html_of(impact: Impact) -> str:
    """A page with the picture, how far it reaches, and a table of the affected steps. It loads nothing."""
    reach = "".join(f"<li>{_xml(line.strip())}</li>" for line, _ in reach_lines(impact))
    rows = "".join(
        f"<tr><td>{_xml(each.step)}</td><td>{_xml(each.action)}</td><td>{_xml(each.target or '')}</td>"
        f"<td>{WORDS[each.why]} {_xml(each.source)}</td><td>{'undone' if each.undone else 'stands'}</td></tr>"
        for each in impact.affected[:_TABLE_MAX]
    )
    more = len(impact.affected) - _TABLE_MAX
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Impact</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_CSS}</style></head><body><h1>Impact</h1><p>{_xml(_summary(impact))}</p><ul>{reach}</ul>"
        f"<figure>{svg_of(impact)}</figure>"
        "<table><thead><tr><th>step</th><th>action</th><th>target</th><th>why</th><th>effect</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        + (f"<p>and {more:,} more; <code>rescind impact --json</code> has them all</p>" if more > 0 else "")
        + "</body></html>\n"
    )


_TABLE_MAX = 2_000


def _summary(impact: Impact) -> str:
    runs = {each.ref.run_id for each in impact.roots}
    return (
        f"Impact of {count_of(len(impact.roots), 'step')} of {count_of(len(runs), 'run')}: "
        f"{count_of(len(impact.standing), 'later step')} depend{'s' if len(impact.standing) == 1 else ''} on them"
    )


# --- what is drawn ---


def _by_step(impact: Impact) -> _Picture:
    boxes = {
        _name(write.ref): _Box((_name(write.ref), write.action, str(write.target or "")), "root")
        for write in impact.roots
    }
    order: dict[StepRef, list[StepRef]] = defaultdict(list)
    for each in impact.affected:
        order[each.source].append(each.step)
    known = {each.step: each for each in impact.affected}
    left = [write.ref for write in impact.roots]
    for ref in left:
        for step in order[ref]:
            each = known[step]
            kind = "undone" if each.undone else "affected"
            boxes[_name(step)] = _Box((_name(step), each.action, str(each.target or "")), kind)
            left.append(step)
    arrows = [(_name(each.source), _name(each.step), each.why, each.by) for each in impact.affected]
    above = {_name(each.step): _name(each.source) for each in impact.affected}
    return _Picture(boxes, arrows, above, "")


def _by_run(impact: Impact) -> _Picture:
    grouped = group_by_run(impact)
    drawn = list(grouped.runs.values())[:BOXES_MAX]
    names = {group.run_id for group in drawn}
    boxes: dict[str, _Box] = {}
    for group in drawn:
        run = impact.runs.get(group.run_id)
        stands = sum(not each.undone for each in group.affected)
        words = [count_of(group.roots, "chosen step")] if group.roots else []
        words += [count_of(len(group.affected), "affected step")] if group.affected else []
        kind = "root" if group.above is None else "affected" if stands or not group.affected else "undone"
        boxes[group.run_id] = _Box((group.run_id, run.agent if run else "", ", ".join(words) or "read it"), kind)
    arrows = [
        (a, b, why, f"{count:,}" if count else "")
        for (a, b, why), count in grouped.links.items()
        if a in names and b in names and a != b
    ]
    above = {group.run_id: group.above for group in drawn if group.above is not None}
    hidden = len(grouped.runs) - len(drawn)
    return _Picture(boxes, arrows, above, f"{count_of(hidden, 'more run')} not drawn" if hidden else "")


def _name(ref: StepRef) -> str:
    return str(ref)


# --- where it stands ---


def _laid_out(picture: _Picture) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Where each box stands, in pixels, and how many columns and rows there are: what is below stands to the right."""
    column: dict[str, int] = {}
    for name in picture.boxes:
        column[name] = column[picture.above[name]] + 1 if name in picture.above else 0
    filled: defaultdict[int, int] = defaultdict(int)
    places: dict[str, tuple[int, int]] = {}
    for name in picture.boxes:
        at = column[name]
        places[name] = (
            _MARGIN + at * (_WIDTH + _GAP_X),
            _TOP + filled[at] * (_HEIGHT + _GAP_Y),
        )
        filled[at] += 1
    return places, max(filled, default=0) + 1, max(filled.values(), default=1)


# --- as SVG ---


def _drawn(box: _Box, place: tuple[int, int]) -> str:
    x, y = place
    fill, stroke = _COLOURS[box.kind]
    texts = "".join(
        f'<text x="{x + 10}" y="{y + 16 + 14 * number}"{weight} fill="#101828">{_xml(short(line, _LINE_MAX))}</text>'
        for number, (line, weight) in enumerate(zip(box.lines, (' font-weight="600"', "", ""), strict=True))
    )
    title = "".join(f"<title>{_xml(short(' · '.join(filter(None, box.lines)), _TITLE_MAX))}</title>")
    return (
        f'<g>{title}<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{stroke}"/>{texts}</g>'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int], why: Why, label: str) -> str:
    ahead = end[0] > start[0]
    x1, y1 = start[0] + (_WIDTH if ahead else _WIDTH // 2), start[1] + (_HEIGHT // 2 if ahead else _HEIGHT)
    x2, y2 = end[0] + (0 if ahead else _WIDTH // 2), end[1] + (_HEIGHT // 2 if ahead else 0)
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
    dash = f' stroke-dasharray="{_DASHES[why]}"' if _DASHES[why] else ""
    words = f"{why.value} {label}".strip()
    return (
        f'<g><title>{_xml(short(words, _TITLE_MAX))}</title><path d="{path}" fill="none" stroke="{_LINES[why]}"{dash}/>'
        f'<circle cx="{x2}" cy="{y2}" r="3" fill="{_LINES[why]}"/>'
        f'<text x="{middle}" y="{(y1 + y2) // 2 - 4}" text-anchor="middle" font-size="9" fill="{_LINES[why]}">'
        f"{_xml(short(words, 16))}</text></g>"
    )


def _legend(left_out: str) -> Iterable[str]:
    x = _MARGIN
    for kind, word in (("root", "chosen"), ("affected", "depends on it"), ("undone", "undone since")):
        fill, stroke = _COLOURS[kind]
        yield f'<rect x="{x}" y="18" width="12" height="12" rx="2" fill="{fill}" stroke="{stroke}"/>'
        yield f'<text x="{x + 18}" y="28" fill="#101828">{word}</text>'
        x += 125
    for why in Why:
        dash = f' stroke-dasharray="{_DASHES[why]}"' if _DASHES[why] else ""
        yield f'<path d="M{x} 24 h24" stroke="{_LINES[why]}"{dash}/>'
        yield f'<text x="{x + 30}" y="28" fill="#101828">{why.value}</text>'
        x += 100 if why is Why.OVERWROTE else 72
    if left_out:
        yield f'<text x="{_MARGIN}" y="48" fill="#b42318">{_xml(left_out)}</text>'


def _xml(value: object) -> str:
    return escape(short(value, _TITLE_MAX))
