"""An impact as an HTML page: how far it reaches, the picture, and every step. It loads nothing and runs nothing.

Names are whole here, however long they are; see `impact_picture` for what they may hold.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from rescind.cli.impact_picture import summary_of, svg_of
from rescind.cli.impact_view import REACHED, WORDS, missing_lines, summary_line
from rescind.cli.safe import middle
from rescind.cli.words import LISTED_MAX, count_of
from rescind.compensation.planning.impact import Impact, reach_of

ROWS_MAX, NAMES_MAX = 2_000, 1_000
"""Rows of a table, and names of a list. A browser scrolls so many with ease; `--json` has all."""

_NAME_MAX = 4_000
_LINE_MAX = 100

_CSS = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',sans-serif;margin:2rem auto;max-width:1500px;padding:0 1.5rem;
color:#101828;background:#fff}
h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p.say{margin:.2rem 0}p.warn{color:#b42318;font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:1rem 0}
dt{color:#475467}dd{margin:0}
dd,td,summary{overflow-wrap:anywhere;unicode-bidi:isolate}
details summary{cursor:pointer}ul{margin:.3rem 0;padding-left:1.2rem}li{overflow-wrap:anywhere;unicode-bidi:isolate}
figure{margin:1.5rem 0;overflow-x:auto;border:1px solid #eaecf0;border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13px;table-layout:fixed}
th{position:sticky;top:0;background:#f9fafb;color:#475467;font-weight:600}
td,th{border-bottom:1px solid #eaecf0;padding:.35rem .6rem;text-align:left;vertical-align:top}
tr.undone td{color:#98a2b3}
tbody tr:hover td{background:#f9fafb}
@media print{figure{overflow:visible;border:0}th{position:static}}
"""

_STEPS = (("step", "18%"), ("agent", "15%"), ("action", "17%"), ("target", "28%"), ("why", "16%"), ("effect", "6%"))
_READERS = (("run", "22%"), ("agent", "18%"), ("read by", "20%"), ("target", "40%"))


def html_of(impact: Impact) -> str:
    """The page as a document."""
    return "".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Impact</title>'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<style>{_CSS}</style></head><body><h1>{_html(summary_of(impact))}</h1>",
            f'<p class="say">{_html(summary_line(impact)[0])}</p>',
            *(f'<p class="say warn">{_html(line)}</p>' for line, _ in missing_lines(impact)),
            *_reach(impact),
            f"<figure>{svg_of(impact)}</figure>",
            *_table("What depends on it", _STEPS, list(_steps(impact))),
            *_table("Who only read it", _READERS, list(_readers(impact))),
            "</body></html>\n",
        )
    )


def _reach(impact: Impact) -> Iterator[str]:
    reach = reach_of(impact)
    yield "<dl>"
    for name in REACHED:
        found: Sequence[str] = getattr(reach, name)
        if found:
            yield f"<dt>{name}</dt><dd>{_names(found)}</dd>"
    yield "</dl>"


def _names(names: Sequence[str]) -> str:
    if len(names) <= LISTED_MAX:
        return (", " if sum(map(len, names)) <= _LINE_MAX else "<br>").join(map(_html, names))
    shown = "".join(f"<li>{_html(name)}</li>" for name in names[:NAMES_MAX])
    more = f"<p>and {len(names) - NAMES_MAX:,} more; --json has them all</p>" if len(names) > NAMES_MAX else ""
    head = f"{len(names):,}: {_html(middle(names[0], _LINE_MAX))}, …"
    return f"<details><summary>{head}</summary><ul>{shown}</ul>{more}</details>"


def _steps(impact: Impact) -> Iterator[tuple[str, ...]]:
    for each in impact.affected:
        run = impact.runs.get(each.step.run_id)
        why = f"{WORDS[each.why]} {each.source}{f' by {each.by}' if each.by else ''}"
        effect = "undone" if each.undone else "stands"
        yield str(each.step), "" if run is None else run.agent, each.action, str(each.target or ""), why, effect


def _readers(impact: Impact) -> Iterator[tuple[str, ...]]:
    wrote = {each.step.run_id for each in impact.affected}
    for each in impact.readers:
        run = impact.runs.get(each.run_id)
        if each.run_id not in wrote:
            yield each.run_id, "" if run is None else run.agent, each.action, str(each.target)


def _table(title: str, heads: Iterable[tuple[str, str]], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<h2>{title}</h2><table><thead><tr>"
    yield from (f'<th style="width:{width}">{name}</th>' for name, width in heads)
    yield "</tr></thead><tbody>"
    for row in rows[:ROWS_MAX]:
        undone = ' class="undone"' if row[-1] == "undone" else ""
        yield f"<tr{undone}>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table>"
    if len(rows) > ROWS_MAX:
        more = count_of(len(rows) - ROWS_MAX, "more row")
        yield f"<p>and {more}; <code>rescind impact --json</code> has them all</p>"


def _html(value: object) -> str:
    return escape(middle(value, _NAME_MAX))
