"""The yardstick's clients, in a process of their own: `python -m bench.subscribers PORT COUNT`.

For each line of input, one message is published, and the time until the last subscriber has it is printed, in seconds.
"""

import select
import socket
import sys
import time


def main(port: int, count: int) -> None:
    poll = select.epoll()
    publisher = socket.create_connection(("127.0.0.1", port))
    every: dict[int, socket.socket] = {}
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.send(b"SUBSCRIBE bench\r\n")
        connection.setblocking(False)
        every[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    _gather(poll, every, b"subscribe")
    print("ready", flush=True)
    for _ in sys.stdin:
        began_s = time.perf_counter()
        publisher.send(b"PUBLISH bench order" + b"x" * 250 + b"\r\n")
        _gather(poll, every, b"order")
        print(time.perf_counter() - began_s, flush=True)


def _gather(poll: select.epoll, every: dict[int, socket.socket], token: bytes) -> None:
    left = set(every)
    while left:
        for descriptor, _ in poll.poll(10):
            if token in every[descriptor].recv(65_536):
                left.discard(descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
