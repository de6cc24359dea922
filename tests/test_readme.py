"""The README's code runs, and its story is true: guard a tool, stop it from another shell, undo it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
RESCIND = str(Path(sys.executable).with_name("rescind"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (code,) = blocks("python")
    (tmp_path / "desk.py").write_text(code, encoding="utf-8")
    return tmp_path


def rescind(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [RESCIND, *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_five_minute_guide_stops_and_undoes_its_agent(folder: Path) -> None:
    agent = subprocess.Popen([sys.executable, "desk.py", "60"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        assert agent.stdout.readline().startswith("run run_")
        while "void" not in (folder / "invoices.json").read_text():
            assert agent.poll() is None
        rescind(folder, "stop", "agent:billing-agent", "--level", "read-only", "--wait", "--reason", "a test")
        refusal, _ = agent.communicate(timeout=30)
    finally:
        agent.kill()
    assert "changes are paused" in refusal
    assert "void" in (folder / "invoices.json").read_text()

    rescind(folder, "undo", "--agent", "billing-agent", "--app", "desk")
    assert "void" in (folder / "invoices.json").read_text()  # a plan changes nothing
    rescind(folder, "undo", "--agent", "billing-agent", "--app", "desk", "--apply")
    assert set(json.loads((folder / "invoices.json").read_text()).values()) == {"open"}
    rescind(folder, "audit", "verify")
    rescind(folder, "resume", "agent:billing-agent", "--reason", "a test")


def test_the_policy_of_the_readme_stops_its_agent_by_itself_and_says_what_it_would_have_done(folder: Path) -> None:
    def run_desk() -> str:
        command = [sys.executable, "desk.py", "3.5"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def voided() -> int:
        return list(json.loads((folder / "invoices.json").read_text()).values()).count("void")

    assert "was not run" not in run_desk()
    assert voided() == 35
    rescind(folder, "undo", "--agent", "billing-agent", "--app", "desk", "--apply")

    (folder / "rescind.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    checked = rescind(folder, "policy", "check")
    assert checked["remarks"] == []
    tried = rescind(folder, "policy", "test")
    assert (tried["runs_contained"], tried["writes_refused"]) == (1, 10)

    shown = run_desk()
    assert "one record more than the 25 allowed in this run: erp/invoice/inv_25" in shown
    assert voided() == 25
    (order,) = rescind(folder, "status")["orders"]
    assert (order["scope"], order["trigger"]) == ("agent:billing-agent@2.4.0", "new-releases-start-slowly")
    (incident,) = rescind(folder, "incidents", "list")["incidents"]
    assert incident["state"] == "open"
    run_id = re.findall(r"run (run_\S+)", shown)[0]
    (refusal,) = rescind(folder, "policy", "explain", run_id)["refusals"]
    assert refusal["origin"] == "rescind.yaml, line 5"

    rescind(folder, "undo", "--agent", "billing-agent", "--app", "desk", "--apply")
    assert voided() == 0
    rescind(folder, "resume", "agent:billing-agent@2.4.0", "--reason", "25 were too few")


def test_a_batch_of_the_readme_s_size_is_refused_nothing_by_the_built_in_policy(folder: Path) -> None:
    code = (folder / "desk.py").read_text().replace("time.sleep(0.1)", "pass")
    (folder / "desk.py").write_text(code)
    command = [sys.executable, "desk.py", "60"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    assert "was not run" not in done.stdout
    assert list(json.loads((folder / "invoices.json").read_text()).values()).count("void") == 600


def test_every_command_of_the_readme_exists() -> None:
    commands = set(re.findall(r"\$ rescind ([a-z]+)", README))
    assert {"stop", "undo", "status", "review", "audit", "resume"} <= commands
    for command in sorted(commands):
        subprocess.run([RESCIND, command, "--help"], check=True, stdout=subprocess.DEVNULL)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_the_code_of_the_effects_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "effects.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    code += """
with engine.begin() as connection:
    connection.execute(sa.text("CREATE TABLE subscriptions (customer_id TEXT PRIMARY KEY, status TEXT)"))
    connection.execute(sa.text("INSERT INTO subscriptions VALUES ('c-1', 'cancelled')"))
import contextlib, sqlite3
with contextlib.closing(sqlite3.connect("shop-orders.db")) as connection:
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, article TEXT)")
    connection.execute("CREATE TABLE order_lines (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE stock (article TEXT PRIMARY KEY, pieces INTEGER)")
shop.install()
import pathlib
pathlib.Path("reports").mkdir()
pathlib.Path("settings.json").write_text("{}")
with guard.run("docs@1"):
    reactivate("c-1")
    write_report("summer", "hot")
    set_plan("ada", "free")
    place("c-1", "lamp")
    assert open_ticket("it rains") == 1
    assert charge("c-1", "4242", 500) == "ch_c-1"
    reserve("tea", 3)
    change_theme("dark")
    assert pay("o-1") == "ch_o-1"
    assert "was not done yet" in str(send_newsletter("ada"))
guard.close()
"""
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
