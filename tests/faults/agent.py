"""An agent that writes as fast as it may, and notes when each of its effects began. Run as a script.

    python agent.py CONFIG TRACE AGENT RUN_ID PACE_S EFFECT_S FORK

The trace is what truth is decided by: one line per event, written with one call of the kernel, so that a line that
stands there happened and none is half there. Each begins with this machine's boot clock.

    1234.567890 try                  a call is about to be made
    1234.567990 begin run-1/s-3      its effect begins, by the name that a receipt gives it
    1234.568090 end run-1/s-3        and has ended
    1234.568190 rest                 the call was admitted, and is over
    1234.568190 held                 or it was refused
    1234.568190 halted               or the run is over
"""

import os
import sys
import time


class Trace:
    """The file. A forked child gets one of its own, beside it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(self, what: str) -> None:
        os.write(self._file, f"{time.clock_gettime(time.CLOCK_BOOTTIME):.6f} {what}\n".encode())


def main(config: str, path: str, agent: str, run_id: str, pace: str, effect: str, fork: str) -> None:
    import rescind

    pace_s, effect_s = float(pace), float(effect)
    trace = Trace(path)
    guard = rescind.Guard.from_config(config)

    @guard.write("note.add", irreversible="a test")
    def add() -> None:
        step = rescind.idempotency_key()
        trace.say(f"begin {step}")
        time.sleep(effect_s)
        trace.say(f"end {step}")

    def go_on() -> None:
        trace.say("try")
        try:
            add()
        except rescind.CallDenied:
            trace.say("held")
        except rescind.RunHalted:
            trace.say("halted")
        else:
            trace.say("rest")
        time.sleep(pace_s)

    with guard.run(agent, tenant="acme", run_id=run_id):
        for _ in range(5):
            go_on()
        if fork == "fork" and os.fork() == 0:
            trace = Trace(f"{path}.child")
        trace.say(f"pid {os.getpid()}")
        while True:
            go_on()


if __name__ == "__main__":
    main(*sys.argv[1:])
