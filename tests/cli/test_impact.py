"""`rescind impact`: the tree, the JSON, and the picture, with names that would like to be markup."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from cli.conftest import Rescind
from rescind.cli.impact_groups import group_by_run
from rescind.cli.impact_page import html_of
from rescind.cli.impact_picture import BOXES_MAX, svg_of
from rescind.cli.impact_view import RUNS_MAX, STEPS_MAX, reach_lines, tree_lines
from rescind.cli.safe import columns_of
from rescind.compensation.planning.impact import Impact, ReadAt, Why, Write, trace_impact
from rescind.model.entry import StepRef
from rescind.model.step import RunInfo, Target

SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = '<script>alert("1")</script>&\x1b[31m\n\x00'

OFFICE = """
import rescind

guard = rescind.Guard.at("store")

@guard.read("invoice.get", target=lambda number: ("erp", "invoice", number))
def get(number): return number

@guard.write("invoice.void", target=lambda number: ("erp", "invoice", number), irreversible="a test")
def void(number): pass
"""


@pytest.fixture
def office(folder: Path) -> Iterator[ModuleType]:
    """A run that wrote `a`, one that read it and wrote `b`, and one that only read."""
    (folder / "office.py").write_text(OFFICE)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("office")
    with module.guard.run("bad@1", run_id="run-bad", tenant="acme"):
        module.void("a")
    with module.guard.run("good@1", run_id="run-good", tenant="umbrella"):
        module.get("a")
        module.void(HOSTILE.replace("\x00", ""))
    with module.guard.run("idle@1", run_id="run-idle"):
        module.get("a")
    module.guard.close()
    yield module
    sys.path.remove(str(folder))


def test_the_tree_says_who_read_it_and_what_they_wrote(rescind: Rescind, office: ModuleType) -> None:
    shown = rescind("impact", "--run", "run-bad", "--store", "store")

    assert shown.status == 0
    assert "1 later step of 1 run depends on what they wrote; 1 more run only read it" in shown.out
    assert "├─ run-good  good@1, umbrella: 1 step read it" in shown.out
    assert "└─ run-idle  idle@1: read erp/invoice/a" in shown.out
    assert "\x1b" not in shown.out


def test_the_json_has_all_of_it(rescind: Rescind, office: ModuleType) -> None:
    answer = rescind("impact", "--run", "run-bad", "--store", "store", "--json").json

    assert [(each["step"]["run_id"], each["why"], each["by"]) for each in answer["affected"]] == [
        ("run-good", "read", "invoice.get")
    ]
    assert answer["reach"]["agents"] == ["good@1", "idle@1"]
    assert answer["reach"]["tenants"] == ["umbrella"]
    assert [each["run_id"] for each in answer["readers"]] == ["run-good", "run-idle"]


def test_nothing_depends_on_what_nobody_touched(rescind: Rescind, office: ModuleType) -> None:
    shown = rescind("impact", "--run", "run-good", "--store", "store")

    assert "nothing that is on record depends on what these steps wrote" in shown.out
    nothing = rescind("impact", "--run", "run-idle", "--store", "store")
    assert "--run run-idle: nothing was done, so nothing depends on it" in nothing.out


def test_the_picture_and_the_page_hold_no_markup_of_others(rescind: Rescind, office: ModuleType, folder: Path) -> None:
    shown = rescind("impact", "--run", "run-bad", "--store", "store", "--svg", "a.svg", "--html", "a.html")

    assert "drawn in a.svg" in shown.out
    drawn = ElementTree.fromstring((folder / "a.svg").read_text())  # our own file
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    for name in ("a.svg", "a.html"):
        text = (folder / name).read_text()
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_what_cannot_be_written_is_said(rescind: Rescind, office: ModuleType) -> None:
    refused = rescind("impact", "--run", "run-bad", "--store", "store", "--svg", "no/such/folder.svg")

    assert refused.status == 2
    assert "no/such/folder.svg cannot be written" in refused.err


def test_who_chooses_nothing_is_asked_what(rescind: Rescind, office: ModuleType) -> None:
    refused = rescind("impact", "--store", "store")

    assert refused.status == 2
    assert "say what to follow" in refused.err


def test_an_undo_leaves_what_depends_on_it_alone_says_so_and_takes_it_if_asked(
    rescind: Rescind, office: ModuleType
) -> None:
    undo = ("undo", "--run", "run-bad", "--app", "office")

    shown = rescind(*undo)

    assert "1 later step of run-good depends on what is undone and is left alone" in shown.out
    assert "rescind impact --run run-bad" in shown.out
    assert rescind(*undo, "--json").json["plan"]["dependents"]["runs"] == ["run-good"]
    taken = rescind(*undo, "--cascade", "--json").json
    assert taken["counts"] == {"review": 2}
    assert "--cascade" in taken["apply"]


# --- large ones ---


def a_wide_impact(readers: int, steps: int) -> Impact:
    """One root, read by so many runs, each of which wrote so many steps, read by the next run."""
    target = Target("erp", "invoice", HOSTILE)
    root = Write(ref=StepRef("root", "1"), action="put", target=target, begun=1, ended=2)
    writes: list[Write] = []
    reads: list[ReadAt] = []
    at = 3
    for number in range(readers):
        reads.append(ReadAt(run_id=f"run-{number}", action="get", target=target, sequence=at))
        for step in range(steps):
            ref = StepRef(f"run-{number}", str(step))
            writes.append(Write(ref=ref, action=HOSTILE, target=target, begun=at + 1, ended=at + 2))
            at += 2
        at += 1
    runs = {name: RunInfo(run_id=name, agent_name=HOSTILE) for name in ("root", *(each.run_id for each in reads))}
    return trace_impact([root], writes, reads, runs=runs)


@pytest.mark.parametrize(("readers", "steps"), [(1, 3), (3, 40), (200, 2), (0, 0)])
def test_a_picture_of_any_size_is_one(readers: int, steps: int) -> None:
    impact = a_wide_impact(readers, steps)

    drawn = ElementTree.fromstring(svg_of(impact))  # our own text
    boxes = [each for each in drawn.iter("{http://www.w3.org/2000/svg}g") if each.find("{*}rect") is not None]
    assert len(boxes) <= BOXES_MAX
    hidden = any("more runs not drawn" in (each.text or "") for each in drawn.iter())
    assert hidden == (readers >= BOXES_MAX)
    assert "<script" not in html_of(impact)


@pytest.mark.parametrize(("readers", "steps"), [(1, 3), (20, 9), (60, 1), (200, 2)])
def test_no_card_lies_on_another_and_no_text_is_wider_than_its_card(readers: int, steps: int) -> None:
    drawn = ElementTree.fromstring(svg_of(a_wide_impact(readers, steps)))  # our own text

    cards = [each for each in drawn.iter(f"{SVG}g") if each.find(f"{SVG}rect") is not None]
    places = [
        tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        for rect in (card.find(f"{SVG}rect") for card in cards)
        if rect is not None
    ]
    columns: dict[float, float] = {}
    for x, y, _, height in sorted(places):
        assert y >= columns.get(x, 0)
        columns[x] = y + height
        assert y + height <= float(drawn.attrib["height"])
    assert max(x + width for x, _, width, _ in places) <= float(drawn.attrib["width"])
    texts = [text.text or "" for card in cards for text in card.iter(f"{SVG}text")]
    assert max(map(columns_of, texts)) <= 47
    assert not {text.text for text in drawn.iter(f"{SVG}text") if not (text.text or "").isprintable()}


LONG = Target("erp", "invoice", f"inv_1/{'lines/' * 30}/customer-7118")


def a_long_impact() -> Impact:
    root = Write(ref=StepRef("root", "1"), action="invoice.void", target=LONG, begun=1, ended=2)
    write = Write(ref=StepRef("run-1", "1"), action="reminder.schedule", target=LONG, begun=4, ended=5)
    read = ReadAt(run_id="run-1", action="invoice.get", target=LONG, sequence=3)
    idle = ReadAt(run_id="run-2", action="invoice.get", target=LONG, sequence=6)
    runs = {name: RunInfo(run_id=name, agent_name="agent") for name in ("root", "run-1", "run-2")}
    return trace_impact([root], [write], [read, idle], runs=runs)


def test_a_long_target_is_cut_in_the_middle_so_that_it_is_told_from_its_neighbours() -> None:
    impact = a_long_impact()

    lines = [line for line, _ in [*reach_lines(impact, width=80), *tree_lines(impact, every=False, width=80)]]

    assert [line for line in lines if columns_of(line) > 80] == []
    ends = [line for line in lines if "erp/invoice/inv_1/" in line]
    assert len(ends) == 3
    assert all(line.endswith("/customer-7118") for line in ends)


def test_all_of_a_long_target_is_there_for_who_asks_for_it(rescind: Rescind) -> None:
    impact = a_long_impact()

    lines = [line for line, _ in tree_lines(impact, every=True, width=80)]

    assert max(map(len, lines)) <= 80
    assert str(LONG) in "".join(line.strip("│├└─ ") for line in lines).replace("\n", "")
    assert f"<td>{LONG}</td>" in html_of(impact)


def test_where_it_is_no_terminal_nothing_is_cut(rescind: Rescind, office: ModuleType) -> None:
    long = "x" * 200
    with office.guard.run("bad@1", run_id="run-long"):
        office.void(long)
    with office.guard.run("good@1", run_id="run-then"):
        office.get(long)
        office.void(long)
    office.guard.close()

    assert (
        f"1 invoice.void on erp/invoice/{long} (read run-long/1)"
        in rescind("impact", "--run", "run-long", "--store", "store").out
    )


def test_a_large_tree_is_cut_and_says_so() -> None:
    impact = a_wide_impact(40, 10)

    short = [line for line, _ in tree_lines(impact, every=False, width=80)]
    full = [line for line, _ in tree_lines(impact, every=True, width=80)]

    assert len(short) <= RUNS_MAX * (STEPS_MAX + 2) + 1
    assert short[-1].startswith(f"and {41 - RUNS_MAX} more runs")
    assert len(full) > 41 + 400
    assert max(map(len, full)) <= 80


def test_no_run_hangs_below_itself_though_runs_took_in_from_each_other() -> None:
    a, b = Target("t", "", "a"), Target("t", "", "b")
    root = Write(ref=StepRef("root", "1"), action="put", target=a, begun=1, ended=2)
    writes = [
        Write(ref=StepRef("x", "1"), action="put", target=b, begun=4, ended=5),
        Write(ref=StepRef("y", "1"), action="put", target=a, begun=7, ended=8),
        Write(ref=StepRef("x", "2"), action="put", target=a, begun=10, ended=11),
    ]
    reads = [
        ReadAt(run_id="x", action="get", target=a, sequence=3),
        ReadAt(run_id="y", action="get", target=b, sequence=6),
        ReadAt(run_id="x", action="get", target=a, sequence=9),
    ]

    groups = group_by_run(trace_impact([root], writes, reads)).runs

    assert {name: group.above for name, group in groups.items()} == {"root": None, "x": "root", "y": "root"}
    assert Why.READ in {each.why for each in groups["x"].affected}
