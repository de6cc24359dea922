"""A process of its own that appends: `python appender.py JOURNAL RUN APPENDS THREADS`.

JOURNAL is a file, or the URL of a database.

Prints each acknowledged step after its append has returned, one per line.
"""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders import a_step, intended, opened
from rescind.journal.port import Appended, Journal
from rescind.journal.postgres import PostgresJournal
from rescind.journal.sqlite import SqliteJournal


def work(journal: Journal, run_id: str, appends: int) -> None:
    journal.append([opened(run_id)])
    for number in range(appends):
        answer = journal.append([intended(a_step(str(number)), run_id)])
        assert isinstance(answer, Appended)
        sys.stdout.write(f"{run_id} {number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    place, name, count, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    shared: Journal = PostgresJournal(place) if "://" in place else SqliteJournal(place)
    workers = [threading.Thread(target=work, args=(shared, f"{name}-{each}", count)) for each in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    shared.close()
