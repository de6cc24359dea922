"""`rescind audit`: what the journal holds, whether it is whole, and how it travels; and what switches were told."""

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from rescind.cli.audit_orders import orders
from rescind.cli.log import log
from rescind.cli.options import common, given_store
from rescind.cli.out import Out, print_json
from rescind.cli.safe import safe
from rescind.cli.stores import find_store, journal_of, journal_path
from rescind.cli.words import count_of
from rescind.errors import UsageError

if TYPE_CHECKING:
    from rescind.database.address import StoreAt
    from rescind.journal.audit import AuditReport, Finding
    from rescind.journal.seal import Seal

_FINDINGS_SHOWN = 50


@click.group()
def audit() -> None:
    """Check, read, export and import the journal; read what switches were told."""


@audit.command()
@click.option(
    "--against",
    type=click.File("rb"),
    metavar="FILE",
    help="Seals that were kept elsewhere, as `rescind audit seal` printed them.",
)
@common
def verify(*, against: BinaryIO | None, out: Out) -> int:
    """Find every changed, missing or reordered entry, and name it.

    Exit status 1 if there is one. Nothing is written.
    """
    store = find_store(given_store())
    kept = [] if against is None else _read_kept(against)
    report, broken = _verified(store, kept)
    findings = [*report.findings, *broken]
    for finding in findings[:_FINDINGS_SHOWN]:
        out.say(safe(finding), style="red")
    hidden = len(findings) - _FINDINGS_SHOWN + report.more_findings
    if hidden > 0:
        out.say(f"and {hidden:,} more")
    what = f"{count_of(report.entries, 'entry', 'entries')} of {count_of(report.runs, 'run')}"
    sealed = f"sealed through {report.sealed_through:,}" if report.seals else "not sealed yet"
    if findings:
        out.note(f"read {what}: {count_of(len(findings) + report.more_findings, 'place')} not as written", style="red")
    else:
        out.say(f"intact: {what}, {sealed}" + (f", {count_of(len(kept), 'kept seal')} met" if kept else ""))
    out.emit({"intact": not findings, "findings": findings, "report": report, "kept_seals": len(kept)})
    return 1 if findings else 0


@audit.command()
@common
def seal(*, out: Out) -> int:
    """Seal what the journal holds now, and print the newest seal.

    Keep the line where nobody who can write this store can write: `rescind audit verify --against FILE` then shows any
    change of what was there before it.
    """
    store = find_store(given_store())
    newest = _seal_now(store)
    if newest is None:
        raise UsageError(f"the journal in {store} is empty, so there is nothing to seal")
    print_json(msgspec.to_builtins(newest))
    covered = count_of(newest.through_sequence, "entry", "entries")
    out.note(f"It covers the first {covered}. Keep this line on another machine.")
    return 0


@audit.command()
@click.option("--run", "run_ids", multiple=True, metavar="ID", help="Only this run; may be repeated.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["compact", "full"]),
    default="compact",
    show_default=True,
    help="One line per step, or one per entry with its hash.",
)
@common
def export(*, run_ids: tuple[str, ...], shape: str, out: Out) -> int:
    """Write the journal to stdout as JSON lines.

    The compact form is for exchange: `rescind audit import` reads it. The full form is every entry as it is stored.
    """
    from rescind.cli.exchange import export_entries, export_steps

    with journal_of(find_store(given_store())) as journal:
        lines = export_steps(journal, run_ids) if shape == "compact" else export_entries(journal, run_ids)
        if out.json:
            out.emit({"steps" if shape == "compact" else "entries": list(lines)})
        else:
            for line in lines:
                print_json(line)
    return 0


@audit.command("import")
@click.argument("file", type=click.File("rb"))
@common
def import_(*, file: BinaryIO, out: Out) -> int:
    """Add the steps of FILE: all of them, or none.

    FILE holds one compact JSON object per line; `-` is stdin. Imported runs count as ended, and are undone like others
    where the app declares their actions.
    """
    from rescind.cli.exchange import import_steps

    with journal_of(find_store(given_store())) as journal:
        runs, steps = import_steps(journal, file)
    out.say(f"imported {count_of(steps, 'step')} of {count_of(runs, 'run')}")
    out.emit({"runs": runs, "steps": steps})
    return 0


audit.add_command(log)
audit.add_command(orders)


def _seal_now(store: "StoreAt") -> "Seal | None":
    from contextlib import closing

    from rescind.clock import SystemClock

    if not isinstance(store, Path):
        from rescind.journal.postgres.audit import seal_database

        return seal_database(store, now_us=SystemClock().now_us())
    path = journal_path(store)
    from rescind.journal.connection import connect_reader, translating
    from rescind.journal.seal import read_seals
    from rescind.journal.seal import seal as make_seal

    with translating(path), closing(connect_reader(path, timeout_s=5.0)) as connection:
        newest = make_seal(connection, path, now_us=SystemClock().now_us())
    if newest is None:  # nothing came since the last one
        for newest in read_seals(path):  # noqa: B007  # the last one is wanted
            pass
    return newest


def _verified(store: "StoreAt", kept: "list[Seal]") -> "tuple[AuditReport, list[Finding]]":
    from rescind.journal.audit import Finding, verify

    if not isinstance(store, Path):
        from rescind.journal.postgres.audit import verify_database

        return verify_database(store, kept), []
    report = verify(journal_path(store))
    # The report has checked the entries against the seals beside them; these show that those seals are the old ones.
    broken = _compare(kept, store)
    return report, [Finding(sequence=seal.through_sequence, problem=problem) for seal, problem in broken]


def _read_kept(file: BinaryIO) -> "list[Seal]":
    from rescind.journal.seal import Seal

    kept: list[Seal] = []
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                kept.append(msgspec.json.decode(line, type=Seal))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"--against, line {number}: not a seal ({error}); give what `rescind audit seal` printed"
                ) from error
    if not kept:
        raise UsageError("--against holds no seal; give what `rescind audit seal` printed")
    return kept


def _compare(kept: "list[Seal]", store: Path) -> "list[tuple[Seal, str]]":
    from rescind.journal.seal import read_seals

    if not kept:
        return []
    here = {seal.through_sequence: seal.digest for seal in read_seals(journal_path(store))}
    return [
        (seal, f"the seal that was kept of the journal up to here ({seal.sealed_at.isoformat()}) is not this journal's")
        for seal in kept
        if here.get(seal.through_sequence) != seal.digest
    ]
