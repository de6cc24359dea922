"""Stopping a program that cannot be asked to stop itself: any language, hung, or unwilling.

    rescind supervise            follows the orders, decides, asks, kills         loop.py, machine.py, ruling.py
        └─ keeper                outlives the supervisor for long enough          keeper.py
              └─ the program     leads a process group of its own
                    └─ …         whatever it starts

Who is ended by whom:

- an order that covers the program: SIGTERM to all it has started, and SIGKILL when the grace is over. Who is suspended
  is killed at once: it cannot use the grace, and to continue it would let it act.
- a process that has left the group, by `setsid` or by forking twice: it is found all the same. Supervisor and keeper
  are *subreapers* (Linux): an orphan below them becomes their child and not that of process 1. When the kernel says
  that they have no child any more (ECHILD), nothing is left. That is no guess and no scan.
- the supervisor dies, by `kill -9` too: the keeper reads the end of a pipe, and kills everything below it.
- the keeper dies: the kernel kills the program (parent-death signal), and the supervisor inherits and kills the rest.
- both are killed in the same moment: the kernel kills the program itself. What it had started may live on.

What this cannot do: end processes of another user (`sudo`), for which root is needed; the parent-death signal, too, is
forgotten by the kernel when a setuid program is executed. And a hostile program with the same user id can kill both of
its keepers. Give such a program a user of its own, or a container, and supervise it from outside.
"""
