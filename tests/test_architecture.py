"""Imports run one way: each room may use the rooms below it, and `model` uses nothing of ours."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "rescind"

# From the ground floor up. A room may import itself and what stands before it.
FLOORS = (
    "model",
    "errors",
    "clock",
    "database",
    "config",
    "journal",
    "triggers",
    "web",  # what our HTTP servers share
    "switch",
    "containment",
    "guard",
    "integrations",  # how a framework meets a guard
    "compensation.port",  # what undo asks of a guard, and of a person: the seam that recovery shares with it
    "recovery",
    "compensation",  # what an undo decides, and the effects: values and rules that its three rooms share
    "compensation.planning",
    "compensation.execution",
    "compensation.sharing",
    "recovery.stage_work",  # what its stages do
    "recovery.course",  # drives an incident through all of them
    "recovery.chores",  # what a worker does between undos
    "plane",  # the control plane: the same over HTTP
    "testing",
    "demo",
    "cli",
)


def room_of(module: str) -> str:
    """`rescind.guard.flow` is in `guard`; `compensation.port` is a room of its own."""
    parts = module.split(".")[1:]
    for depth in (2, 1):
        name = ".".join(parts[:depth])
        if name in FLOORS:
            return name
    return parts[0] if parts else ""


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "rescind"}


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_room_imports_only_itself_and_what_stands_below_it(path: Path) -> None:
    module = "rescind." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    room = room_of(module.removesuffix(".__init__"))
    assert room in FLOORS, f"{room} has no floor in the list above; give it one"
    for imported in imports_of(path):
        other = room_of(imported)
        assert other == "" or FLOORS.index(other) <= FLOORS.index(room), (
            f"{module} ({room}) imports {imported} ({other}), which stands above it"
        )


def test_every_room_is_a_folder_or_a_module() -> None:
    for floor in FLOORS:
        place = SOURCE.joinpath(*floor.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"{floor} is listed and does not exist"


def test_no_two_modules_number_their_laws_by_the_same_letters() -> None:
    homes: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for letters in re.findall(r"^ *([A-Z]{1,2})1\. ", path.read_text(), re.MULTILINE):
            homes.setdefault(letters, []).append(str(path.relative_to(SOURCE)))

    assert len(homes) > 40
    assert {letters: modules for letters, modules in homes.items() if len(modules) > 1} == {}


def test_every_decision_has_a_number_of_its_own() -> None:
    records = sorted((SOURCE.parents[1] / "docs" / "decisions").glob("*.md"))
    numbers = [record.name[:4] for record in records]
    assert numbers == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        assert record.read_text(encoding="utf-8").startswith(f"# {record.name[:4]}. ") or record.name < "0015"
