"""An impact as a picture: SVG with nothing outside of it.

A card for each run, with the first of its steps; to the right of it the runs that were found through it, each with a
line of its own from a common trunk, so that no two lines cross. Of many runs only counts are told, and what is not
drawn at all is counted in words. All names come from agents and targets, so all text is escaped, cut in the middle and
clipped to its card, and what XML cannot hold is shown as its escape.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import msgspec

from rescind.cli.impact_groups import RunGroup, group_by_run
from rescind.cli.impact_view import WORDS
from rescind.cli.safe import middle
from rescind.cli.words import count_of
from rescind.compensation.planning.impact import Impact, Why

BOXES_MAX = 60
"""Cards of one picture. More are no picture any more."""

DETAILED_MAX = 24
"""Cards up to which their steps are listed."""

_STEPS_MAX = 6

_WIDTH, _GAP_X, _GAP_Y, _MARGIN, _TOP = 310, 132, 14, 24, 76
_WIDTH_MIN = 840  # Of the picture, for its legend.
_HEAD, _LINE = 46, 30  # Heights: of run and agent, and of a step with its target.
_COLUMNS, _COLUMNS_BOLD = 44, 38  # Of a line in a card, at 11.5 pixels.
_TITLE_MAX = 500

_ACCENTS = {"chosen": "#b42318", "depends": "#dc6803", "undone": "#98a2b3", "reads": "#2e90fa"}
_KINDS = {"chosen": "chosen", "depends": "depends on it", "undone": "undone since", "reads": "only read it"}
_DASHES = {Why.READ: "", Why.OVERWROTE: "7 4", Why.CAUSED: "2 4"}
_LINES = {Why.READ: "#175cd3", Why.OVERWROTE: "#b42318", Why.CAUSED: "#475467"}

_STYLE = (
    "text{fill:#101828;font:11.5px system-ui,'Segoe UI','DejaVu Sans',sans-serif;unicode-bidi:isolate;direction:ltr}"
    ".b{font-weight:600}.s{fill:#475467}.u{fill:#98a2b3;text-decoration:line-through}.w{font-size:10.5px}"
)


class _Card(msgspec.Struct, frozen=True):
    """A run as it is drawn: what is bold, what is below, its steps as pairs of lines, whether undone, and the rest."""

    title: str
    owner: str
    kind: str
    steps: tuple[tuple[str, str, bool], ...]
    rest: str
    why: Why | None
    link: str

    @property
    def height(self) -> int:
        return (_HEAD + _LINE * len(self.steps) if self.steps else _HEAD - 6) + (20 if self.rest else 4)


def svg_of(impact: Impact) -> str:
    """The picture as an SVG document."""
    grouped = group_by_run(impact)
    drawn = list(grouped.runs.values())[:BOXES_MAX]
    detailed = len(drawn) <= DETAILED_MAX
    cards = {group.run_id: _card(group, impact, detailed=detailed) for group in drawn}
    below: dict[str | None, list[str]] = defaultdict(list)
    for group in drawn:
        below[group.above].append(group.run_id)
    places = _laid_out(cards, below)
    hidden = len(grouped.runs) - len(drawn)
    width = max(_WIDTH_MIN, max((x + _WIDTH for x, _ in places.values()), default=0) + _MARGIN)
    height = max((y + cards[name].height for name, (_, y) in places.items()), default=_TOP) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" style="max-width:none">',
        f"<title>{_xml(summary_of(impact))}</title>",
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *_legend(f"{count_of(hidden, 'more run')} not drawn" if hidden else ""),
        *(part for name in cards for part in _branches(name, below.get(name, ()), cards, places)),
        *(_drawn(card, places[name]) for name, card in cards.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def summary_of(impact: Impact) -> str:
    """What it is a picture of."""
    runs = {each.ref.run_id for each in impact.roots}
    return f"Impact of {count_of(len(impact.roots), 'step')} of {count_of(len(runs), 'run')}"


# --- what is drawn ---


def _card(group: RunGroup, impact: Impact, *, detailed: bool) -> _Card:
    run = impact.runs.get(group.run_id)
    owner = "" if run is None else " · ".join(filter(None, (run.agent, run.tenant)))
    listed = _steps_of(group, impact) if detailed else []
    counts = [count_of(group.roots, "chosen step")] if group.roots else []
    counts += [count_of(len(group.affected), "affected step")] if group.affected else []
    rest = ", ".join(counts)
    if detailed:
        more = group.roots + len(group.affected) - len(listed)
        rest = f"and {count_of(more, 'more step')}" if more else ""
    if not counts:
        read = list(dict.fromkeys(group.read))
        also = f" and {len(read) - 1:,} more" if len(read) > 1 else ""
        rest = f"read {middle(read[0], _COLUMNS - 3 - len(also))}{also}"
    whys = Counter(each.why for each in group.affected)
    why = None if group.above is None else min(whys, key=lambda each: (-whys[each], each)) if whys else Why.READ
    it = " it" if len(whys) == 1 else ""
    link = ", ".join(f"{number:,} {WORDS[each]}{it}" for each, number in sorted(whys.items())) or "read it"
    return _Card(group.run_id, owner, _kind_of(group), tuple(listed), rest, why, link)


def _steps_of(group: RunGroup, impact: Impact) -> list[tuple[str, str, bool]]:
    roots = [
        (f"{write.ref.step_id}  {write.action}", str(write.target or ""), write.undone)
        for write in impact.roots
        if write.ref.run_id == group.run_id
    ]
    affected = [(f"{each.step.step_id}  {each.action}", str(each.target or ""), each.undone) for each in group.affected]
    return [*roots, *affected][:_STEPS_MAX]


def _kind_of(group: RunGroup) -> str:
    if group.above is None:
        return "chosen"
    if not group.affected:
        return "reads"
    return "undone" if all(each.undone for each in group.affected) else "depends"


# --- where it stands ---


def _laid_out(cards: dict[str, _Card], below: Mapping[str | None, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Where each card stands, in pixels: beside the first that was found through it, with a band of rows of its own."""
    heights: dict[str, int] = {}
    for name in reversed(cards):  # a card stands behind the one above it, so its own are known by then
        stacked = [heights[each] for each in below.get(name, ())]
        heights[name] = max(cards[name].height, sum(stacked) + _GAP_Y * max(0, len(stacked) - 1))
    places: dict[str, tuple[int, int]] = {}
    left: list[tuple[str | None, int, int]] = [(None, _MARGIN - _WIDTH - _GAP_X, _TOP)]
    while left:
        above, x, y = left.pop()
        for name in below.get(above, ()):
            places[name] = (x + _WIDTH + _GAP_X, y)
            left.append((name, x + _WIDTH + _GAP_X, y))
            y += heights[name] + _GAP_Y
    return places


# --- as SVG ---


def _drawn(card: _Card, place: tuple[int, int]) -> str:
    x, y = place
    whole = "\n".join(filter(None, (card.title, card.owner, *(f"{step} on {on}" for step, on, _ in card.steps))))
    lines = [(18, "b", middle(card.title, _COLUMNS_BOLD)), (34, "s w", middle(card.owner, _COLUMNS))]
    at = _HEAD
    for step, on, undone in card.steps:
        mark = " u" if undone else ""
        lines += [(at + 12, f"t{mark}", middle(step, _COLUMNS)), (at + 25, f"s w{mark}", middle(on, _COLUMNS + 3))]
        at += _LINE
    if card.rest:
        lines.append((at + (12 if card.steps else 5), "s w", middle(card.rest, _COLUMNS + 3)))
    texts = "".join(f'<text x="14" y="{down}" class="{css}">{_xml(text)}</text>' for down, css, text in lines if text)
    rule = f'<path d="M14 {_HEAD - 5} H{_WIDTH - 12}" stroke="#eaecf0"/>' if card.steps else ""
    accent, height = _ACCENTS[card.kind], card.height
    title = "".join(f"{_xml(line)}\n" for line in whole.split("\n"))
    # A document within clips what is too wide for it, whatever font there is.
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{height}" rx="7" fill="#ffffff" '
        f'stroke="#d0d5dd"/><path d="M{x} {y + 7} q0 -7 7 -7 v{height} q-7 0 -7 -7 z" fill="{accent}"/>'
        f'<svg x="{x}" y="{y}" width="{_WIDTH - 8}" height="{height}">{rule}{texts}</svg></g>'
    )


def _branches(
    name: str, below: Sequence[str], cards: Mapping[str, _Card], places: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    """A trunk beside the card, and from it a line to each card that was found through it."""
    if not below:
        return
    x, y = places[name]
    start, trunk = x + _WIDTH, x + _WIDTH + 20
    ends = [places[each][1] + _HEAD // 2 for each in below]
    yield f'<path d="M{start} {y + _HEAD // 2} H{trunk} V{ends[-1]}" fill="none" stroke="#98a2b3"/>'
    for each, end in zip(below, ends, strict=True):
        card, to = cards[each], places[each][0]
        why = card.why or Why.READ
        dash = f' stroke-dasharray="{_DASHES[why]}"' if _DASHES[why] else ""
        words = middle(card.link, 19)
        yield (
            f"<g><title>{_xml(card.link)}</title>"
            f'<path d="M{trunk} {end} H{to - 7}" fill="none" stroke="{_LINES[why]}" stroke-width="1.4"{dash}/>'
            f'<path d="M{to - 8} {end - 4} L{to - 1} {end} L{to - 8} {end + 4} z" fill="{_LINES[why]}"/>'
            f'<text x="{trunk + 6}" y="{end - 5}" style="font-size:9.5px;fill:{_LINES[why]}">{_xml(words)}</text></g>'
        )


def _legend(left_out: str) -> Iterable[str]:
    x = _MARGIN
    for kind, word in _KINDS.items():
        yield f'<rect x="{x}" y="19" width="11" height="11" rx="2" fill="{_ACCENTS[kind]}"/>'
        yield f'<text x="{x + 17}" y="29">{word}</text>'
        x += 36 + 7 * len(word)
    x += 12
    for why, word in WORDS.items():
        dash = f' stroke-dasharray="{_DASHES[why]}"' if _DASHES[why] else ""
        yield f'<path d="M{x} 25 h26" stroke="{_LINES[why]}" stroke-width="1.4"{dash}/>'
        yield f'<text x="{x + 32}" y="29">{word} it</text>'
        x += 70 + 7 * len(word)
    if left_out:
        yield f'<text x="{_MARGIN}" y="56" class="b" style="fill:#b42318">{_xml(left_out)}</text>'


def _xml(value: object) -> str:
    return escape(middle(value, _TITLE_MAX))
