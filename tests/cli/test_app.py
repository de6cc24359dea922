"""`--app`: each way in which it can be wrong names the place and the remedy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rescind.cli.app import load_guard
from rescind.errors import UsageError

GUARD = "import rescind\nguard = rescind.Guard.at('store')\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("tools"):
            del sys.modules[name]


def write(text: str, name: str = "tools") -> None:
    Path(f"{name}.py").write_text(text)


def test_the_only_guard_of_a_module_is_found_whatever_its_name() -> None:
    write(GUARD + "also_the_guard = guard\n")
    assert load_guard("tools") is sys.modules["tools"].guard


def test_a_named_guard_is_taken() -> None:
    write(GUARD + "other = rescind.Guard.at('other')\n")
    assert load_guard("tools:other") is sys.modules["tools"].other


@pytest.mark.parametrize(
    ("source", "app", "says"),
    [
        (GUARD, "no_such_tools", r"no module 'no_such_tools'.*Looked in"),
        (GUARD, "no_such.tools", r"no module 'no_such'"),
        (GUARD, "tools:nothing", r"has no guard 'nothing'; its guards are: guard"),
        (GUARD + "x = 3\n", "tools:x", r"tools:x is a int and no rescind.Guard"),
        (GUARD + "other = rescind.Guard.at('other')\n", "tools", r"holds 2 guards; say which: --app tools:guard or"),
        ("", "tools", r"tools \(.*tools.py\) holds no rescind.Guard"),
        ("import nothing_like_it\n", "tools", r"importing tools failed at .*tools.py:1: ModuleNotFoundError"),
        ("1 / 0\n", "tools", r"importing tools failed at .*tools.py:1: ZeroDivisionError"),
        ("def broken(:\n", "tools", r"importing tools failed at .*tools.py:1: SyntaxError"),
        ("raise SystemExit(0)\n", "tools", r"importing tools failed at .*tools.py:1: SystemExit"),
        (GUARD, "tools.py", r"leave out \.py, such as `--app tools`"),
        (GUARD, "path/to/tools.py", r"leave out \.py, such as `--app path\.to\.tools`"),
        (GUARD, "path/to/tools", r"no module; give the module that declares your guarded tools"),
        (GUARD, ":guard", r"no module; give"),
        (
            GUARD + "@guard.write('a.b')\ndef tool() -> None: ...\n",
            "tools",
            r"a\.b \(.*tools.py:3\) is a write without an effect class",
        ),
        (
            GUARD + "@guard.write('a', irreversible='x')\ndef t() -> None: ...\n"
            "@guard.write('a', irreversible='x')\ndef u() -> None: ...\n",
            "tools",
            r"declared twice: at .*tools.py:3 and at .*tools.py:5",
        ),
    ],
)
def test_an_app_that_cannot_be_used_is_refused_with_its_place(source: str, app: str, says: str) -> None:
    write(source)
    with pytest.raises(UsageError, match=says):
        load_guard(app)
