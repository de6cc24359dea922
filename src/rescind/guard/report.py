"""What a guard says of itself to a switch, as far as it knows it alone."""

import os
import socket
from typing import TYPE_CHECKING

from rescind.switch.port import LiveRun
from rescind.switch.presence import is_guard_id
from rescind.switch.watcher import program_name
from rescind.switch.wire import RUNS_REPORTED_MAX, Report, RunDoc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rescind.guard.run import Run

SUPERVISOR_VARIABLE = "RESCIND_SUPERVISOR"
"""The guard id of the supervisor that a program runs under. Who lies here is only reported under another's name."""


def described(runs: "Sequence[Run]", fault: str) -> Report:
    """A guard with these open runs, the first `RUNS_REPORTED_MAX` of them by name."""
    supervisor = os.environ.get(SUPERVISOR_VARIABLE, "")
    return Report(
        pid=os.getpid(),
        host=socket.gethostname(),
        program=program_name(),
        supervisor=supervisor if is_guard_id(supervisor) else "",
        runs=tuple(_run_doc(run.report()) for run in runs[:RUNS_REPORTED_MAX]),
        runs_open=len(runs),
        fault=fault,
    )


def _run_doc(live: LiveRun) -> RunDoc:
    run = live.run
    return RunDoc(
        run_id=run.run_id,
        agent=run.agent,
        tenant=run.tenant,
        workflow=run.workflow,
        ancestors=run.ancestors,
        level=live.level.label,
        halted=live.latched,
    )
