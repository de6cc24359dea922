"""Worlds of the contract suite whose targets are programs of others: Redis, git."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from effects.harness import World
from rescind.compensation.effects import GitBranch, RedisKeys

# --- Redis ---


def _keys(tool: Callable[[Any], Any]) -> Callable[[Any, str], World]:
    def build(_: Any, url: str) -> World:
        client: Any = redis.Redis.from_url(url, decode_responses=True)
        client.flushall()
        client.set("text", "before", px=3_600_000)
        client.rpush("list", "a", "b")
        client.hset("hash", mapping={f"field {number}": "x" * number for number in range(700)})  # no longer a listpack
        client.sadd("set", *range(600), "word")
        client.zadd("zset", {"ann": 1.5, "bob": 0.1})
        client.xadd("stream", {"a": 1}, id="1-1")
        client.xgroup_create("stream", "readers", id="0")
        client.set("others", "theirs")
        effect = RedisKeys(client, keys=lambda: ["text", "list", "hash", "set", "zset", "stream", "new"])

        def cut_off() -> None:
            effect._client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))  # where nobody listens

        def close() -> None:
            effect.close()
            client.close()

        def content() -> Any:
            names = sorted(client.keys())
            hashes = {name: sorted(client.hgetall(name).items()) for name in names if client.type(name) == "hash"}
            sets = {name: sorted(client.smembers(name)) for name in names if client.type(name) == "set"}
            rest = {name: effect._client.dump(name) for name in names if name not in hashes and name not in sets}
            return names, hashes, sets, rest, [client.pexpiretime(name) for name in names]

        return World(
            effect=effect,
            tool=lambda: tool(client),
            meddle=lambda: client.set("new", "others"),
            mend=lambda: client.set("new", "made"),
            content=content,
            cut_off=cut_off,
            abandons=False,
            close=close,
        )

    build.needs = ("redis_url",)  # type: ignore[attr-defined]
    return build


def _write_all(client: Any) -> None:
    client.set("text", "after", keepttl=True)
    client.persist("text")
    client.lset("list", 0, "z")
    client.expire("list", 7200)
    client.hdel("hash", "field 3", "field 600")
    client.hset("hash", "more", "1")
    client.srem("set", "word", 5)
    client.zadd("zset", {"ann": 2})
    client.xadd("stream", {"a": 2}, id="2-1")
    client.xreadgroup("readers", "r", {"stream": ">"}, count=1)
    client.set("new", "made")


def _replace_all(client: Any) -> None:
    client.delete("text", "list", "hash", "set", "zset", "stream")
    client.rpush("text", "now a list")
    client.set("new", "made")


# --- git ---


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def a_repository(folder: Path) -> Path:
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    git(folder, "branch", "site")
    git(folder, "branch", "others")
    return folder


def commit_on(folder: Path, ref: str, text: str, *, fixed: bool = True) -> str:
    """A commit on top of a branch that nobody has checked out; the same one whenever it is made again."""
    tree = git(folder, "rev-parse", f"{ref}^{{tree}}")
    made = subprocess.run(
        ["git", "-C", str(folder), "commit-tree", tree, "-p", ref, "-m", text],
        env={
            "PATH": "/usr/bin:/bin:/usr/local/bin",
            **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _WHO.items()},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


_WHO = {"NAME": "Ann", "EMAIL": "ann@example.com", "DATE": "2026-01-01T00:00:00Z"}


def _branch(tool: Callable[[Path, str], Any], name: str, *, remote: bool) -> Callable[[Any], World]:
    def build(place: Any) -> World:
        there = a_repository(place[0] / "there")
        here = there
        if remote:
            here = place[0] / "here"
            subprocess.run(["git", "clone", "-q", str(there), str(here)], check=True)
        ref = f"refs/heads/{name}"
        left: list[str] = []

        def meddle() -> None:
            left.append(git(there, "for-each-ref", "--format=%(objectname)", ref))
            git(there, "update-ref", ref, commit_on(there, "refs/heads/others", "theirs"))

        def mend() -> None:
            git(there, *(("update-ref", ref, left[-1]) if left[-1] else ("update-ref", "-d", ref)))

        return World(
            effect=GitBranch(here, branch=lambda: name, remote="origin" if remote else None),
            tool=lambda: tool(there, ref),
            meddle=meddle,
            mend=mend,
            content=lambda: git(there, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads"),
            cut_off=lambda: there.rename(place[0] / "elsewhere"),
            abandons=not remote,
        )

    return build


def _commit(there: Path, ref: str) -> None:
    git(there, "update-ref", ref, commit_on(there, ref, "the tool's"))


def _create(there: Path, ref: str) -> None:
    git(there, "update-ref", ref, commit_on(there, "refs/heads/site", "the tool's"))


SERVERS: dict[str, Callable[..., World]] = {
    "redis, every type changed": _keys(_write_all),
    "redis, every key replaced": _keys(_replace_all),
    **{
        f"git, a branch {what}{' at a remote' if remote else ''}": _branch(tool, name, remote=remote)
        for what, tool, name in (
            ("with a commit more", _commit, "site"),
            ("created", _create, "new/branch"),
            ("deleted", lambda there, ref: git(there, "update-ref", "-d", ref), "site"),
        )
        for remote in (False, True)
    },
}
