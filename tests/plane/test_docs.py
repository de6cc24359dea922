"""docs/api.md, followed from its first line to its last."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers import free_port

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")

pytest.importorskip("dbos")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", API, flags=re.DOTALL)


def answers_of(said: str) -> dict[str, list[Any]]:
    """What was said after each command."""
    found: dict[str, list[Any]] = {}
    for part in said.split("\n>>> ")[1:]:
        command, _, answer = part.partition("\n")
        found.setdefault(command, []).append(answer)
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl, which is not here")
def test_a_newcomer_can_follow_the_page(tmp_path: Path) -> None:
    (code,) = blocks("python")
    (tmp_path / "shop.py").write_text(code, encoding="utf-8")
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) > 15
    port = str(free_port())
    script = ["set -eu", f"export PATH={Path(sys.executable).parent}:$PATH", "trap 'kill $(jobs -p)' EXIT"]
    for line in commands:
        command = line.replace("7480", port)
        command = command.replace("serve &", f"serve --port {port} > serve.log 2>&1 &")
        command = command.replace(
            "shop &", "shop > worker.log 2>&1 & until grep -q lives worker.log; do sleep 0.1; done"
        )
        script += [f"printf '\\n>>> %s\\n' {json.dumps(line.split()[-1])}", command]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = answers_of(done.stdout)
    assert said
    events = next(answer for command, (answer, *_) in said.items() if command.endswith("/events"))
    assert "event: end" in events
    assert '"state":"finished"' in events
    resolved = next(answer for command, (answer, *_) in said.items() if command.endswith("/resolution"))
    assert json.loads(resolved)["task"]["reference"] == "CN-1047"
