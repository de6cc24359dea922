"""What we promise: the names of one import, and that they can be had."""

import subprocess
import sys

import rescind

PROMISED = {
    "ApprovalPending", "BreakerOpen", "CallDenied", "Conflict", "Effect", "Files", "Found", "GitBranch", "Guard",
    "HeldEffect", "HttpResource", "IdempotencyConflict", "JournalUnavailable", "Level", "MappingKey", "NothingChanged",
    "ObjectGraph", "OutcomeNotRecorded", "PastStep", "Probe", "RedisKeys", "RescindError", "Run", "RunHalted",
    "S3Objects", "Snapshot", "SqlChanges", "SqlRows", "StepInDoubt", "Target", "Transient", "UsageError",
    "VerificationFailed", "idempotency_key", "report",
}  # fmt: skip


def test_the_namespace_holds_what_is_promised_and_nothing_else() -> None:
    assert sorted(rescind.__all__) == sorted(PROMISED)
    for name in PROMISED:
        assert getattr(rescind, name).__name__ == name


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    assert not hasattr(rescind, "Undoer")


def test_the_import_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, rescind; rescind.Guard; "
        "print(*sorted({'asyncio', 'sqlalchemy', 'rich', 'click', 'yaml', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
