"""The first moment of a guard in a program with several threads: nobody acts before the guard is known."""

import threading
from pathlib import Path

from rescind.guard.following import Following
from rescind.guard.guard import Guard
from rescind.guard.stores import EmbeddedStores, Watch


class SlowStores(EmbeddedStores):
    """Stores on a slow disk: being registered takes until the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def watch(self, guard: Following) -> Watch:
        self.begun.set()
        assert self.may_go_on.wait(20.0)
        return super().watch(guard)


def test_a_second_thread_acts_no_sooner_than_the_guard_is_registered(tmp_path: Path) -> None:
    stores = SlowStores(tmp_path)
    guard, effects = Guard(stores), list[int]()

    @guard.write("price.set", irreversible="a test")
    def put() -> None:
        effects.append(len(list((tmp_path / "guards").glob("*.lock"))))

    def work() -> None:
        with guard.run("shop@1"):
            put()

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert stores.begun.wait(20.0)
    threads[1].start()
    threads[1].join(0.3)  # time enough to overtake the first one
    assert effects == []
    stores.may_go_on.set()
    for thread in threads:
        thread.join()
    guard.close()
    assert effects == [1, 1]
