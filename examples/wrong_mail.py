"""Wrong e-mail: suppress the follow-ups that it has set off, record it, and route the mail itself to a person."""

import sqlite3
import tempfile
from pathlib import Path

import rescind
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.recovery.review import list_tasks

folder = Path(tempfile.mkdtemp())
guard = rescind.Guard.at(folder / "store")
mailer = sqlite3.connect(folder / "mailer.db", isolation_level=None, check_same_thread=False)
mailer.execute("CREATE TABLE sent (key TEXT PRIMARY KEY, recipient TEXT)")
mailer.execute("CREATE TABLE follow_ups (id INTEGER PRIMARY KEY, recipient TEXT, state TEXT)")


@guard.write("mail.send", target=lambda to: ("mailer", "mail", to), irreversible="a mail cannot be unsent")
def send(to: str, text: str) -> None:
    mailer.execute("INSERT INTO sent VALUES (?, ?)", (rescind.idempotency_key(), to))
    if to == "carl":
        raise TimeoutError("no reply from the mailer")  # it was sent all the same


@send.probe
def _(step: rescind.PastStep) -> bool:
    found = mailer.execute("SELECT 1 FROM sent WHERE key = ?", (step.idempotency_key,)).fetchone()
    return found is not None


@guard.write("follow_up.schedule", target=lambda to: ("mailer", "follow-up", to), after=["mail.send"])
def schedule(to: str) -> int:
    cursor = mailer.execute("INSERT INTO follow_ups (recipient, state) VALUES (?, 'waiting')", (to,))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


@schedule.compensate(idempotent=True)
def _(step: rescind.PastStep) -> None:
    mailer.execute("UPDATE follow_ups SET state = 'suppressed' WHERE id = ?", (step.result,))


with guard.run("campaign-agent@7") as run:
    for customer in ("ada", "bob"):
        send(customer, "Your account was closed")
        schedule(customer)
    try:
        send("carl", "Your account was closed")
    except TimeoutError:
        print("the mail to carl: nobody knows")

plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, SystemClock())
result = apply_plan(
    plan, guard.journal, guard.compensators, SystemClock(), SystemIds(), actor="ops", reason="wrong list"
)
(task,) = list_tasks(guard.journal)
states = [state for (state,) in mailer.execute("SELECT state FROM follow_ups")]
guard.close()

print(result.counts, states)
print(f"for a person, {len(task.steps)} mails: {task.detail}")
assert result.counts == {"compensated": 2, "review": 3}
assert states == ["suppressed", "suppressed"]
assert "its target system says that it took effect" in plan.items[0].decision.detail  # the one that got no reply
