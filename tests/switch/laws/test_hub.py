"""H1 and H2: what a stream is told, however fast others publish and however slowly it reads."""

from hypothesis import given
from hypothesis import strategies as st

from rescind.switch.service.hub import RING_MAX, Hub, Listener

acts = st.lists(st.one_of(st.just("publish"), st.just("beat"), st.integers(0, 2)), max_size=60)


class World:
    """A hub whose events are numbered, and whose set says how many there are."""

    def __init__(self, listeners: int) -> None:
        self.published = self.beats = 0
        self.hub = Hub(lambda: b"S%d;" % self.published)
        self.listeners = [Listener() for _ in range(listeners)]
        self.told = [b""] * listeners
        for listener in self.listeners:
            self.hub.join(listener)

    def publish(self) -> None:
        self.published += 1
        self.hub.publish(b"E%d;" % self.published)

    def beat(self) -> None:
        self.beats += 1
        self.hub.beat(b"B%d;" % self.published)

    def read(self, number: int) -> None:
        self.told[number] += self.hub.take(self.listeners[number])


def check(told: bytes) -> int:
    """Walk through what one stream was told; how many events it knows of in the end."""
    known = -1
    for word in told.decode().split(";")[:-1]:
        kind, number = word[0], int(word[1:])
        if kind == "S":
            assert number >= known
            known = number
        elif kind == "E":
            assert number == known + 1  # nothing is missing, doubled or out of order
            known = number
        else:
            assert known >= number  # H1: a beat comes after every event that was published before it
    return known


@given(acts)
def test_h1_events_come_in_order_and_no_beat_overtakes_one(todo: list[str | int]) -> None:
    world = World(3)
    for act in todo:
        if act == "publish":
            world.publish()
        elif act == "beat":
            world.beat()
        else:
            assert isinstance(act, int)
            world.read(act)
    for number in range(3):
        world.read(number)
        assert check(world.told[number]) == world.published
        assert world.hub.take(world.listeners[number]) == b""


def test_h2_a_stream_that_fell_out_of_the_ring_is_told_the_whole_set() -> None:
    world = World(1)
    world.read(0)
    for _ in range(RING_MAX + 5):
        world.publish()
    world.told[0] = b""
    world.read(0)
    assert world.told[0] == b"S%d;" % world.published


def test_what_is_written_directly_is_told_once() -> None:
    sent: list[bytes] = []

    def write(chunk: bytes) -> bool:
        sent.append(chunk)
        return True

    hub, listener = Hub(lambda: b"S;"), Listener(write)
    hub.join(listener)
    assert hub.take(listener) == b"S;"
    hub.publish(b"E1;")  # nobody waits on it now, so it is not written past its own task
    assert sent == []
    assert hub.take(listener) == b"E1;"
