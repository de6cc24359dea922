"""The plain stop, read without a command-line library.

`rescind stop SCOPE` must be durable within 8 times the start of a bare Python. Importing click alone takes as long as
that start and a half (measured: 10 ms and 15 ms), so a stop that uses nothing but plain options is read here. Anything
else (help, `--wait`, an abbreviation, a slip of the finger) is left to the full command, which knows the same options;
a test holds the two against each other.
"""

from collections.abc import Sequence

import msgspec

VALUED = ("--level", "--reason", "--actor", "--store", "--switch", "--token-file")


class QuickStop(msgspec.Struct):
    """The words of a plain stop."""

    scope: str = ""
    level: str | None = None
    reason: str = ""
    actor: str | None = None
    store: str | None = None
    switch: tuple[str, ...] = ()
    token_file: str | None = None
    as_json: bool = False


def read_stop(argv: Sequence[str]) -> QuickStop | None:
    """The words of `rescind ARGV`, if it is a plain stop; None leaves them to the full command line."""
    words = QuickStop()
    rest = list(argv)
    if rest[:1] == ["--store"] and len(rest) > 1 and not rest[1].startswith("-"):
        words.store = rest[1]
        del rest[:2]
    if rest[:1] != ["stop"]:
        return None
    del rest[0]
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--json":
            words.as_json = True
        elif name in VALUED:
            if not equals:
                if not rest or rest[0].startswith("-"):
                    return None
                value = rest.pop(0)
            if name == "--switch":
                words.switch = (*words.switch, value)
            else:
                setattr(words, name.removeprefix("--").replace("-", "_"), value)
        elif not word or word.startswith("-") or words.scope:
            return None
        else:
            words.scope = word
    return words if words.scope else None


def run_stop(words: QuickStop) -> int:
    """Do it. Returns the exit status. Raises: RescindError."""
    from rescind.cli.out import Out
    from rescind.cli.places import Given
    from rescind.cli.stopping import LEVEL_DEFAULT, stop_now
    from rescind.database.address import store_at

    return stop_now(
        words.scope,
        level=LEVEL_DEFAULT if words.level is None else words.level,
        reason=words.reason,
        actor=words.actor,
        given=Given(
            store=None if words.store is None else store_at(words.store),
            urls=words.switch,
            token_file=words.token_file,
        ),
        out=Out(json=words.as_json),
    )
