"""What `GitBranch` promises beyond the contract."""

import os
import subprocess
from pathlib import Path

import pytest

from effects.harness import opened, perform
from rescind.compensation.effects import GitBranch
from rescind.errors import Conflict, Transient, UsageError


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), "-c", "user.name=ann", "-c", "user.email=ann@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def a_repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, folder.name)
    return folder


def commit(repository: Path, message: str) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "--message", message)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return a_repository(tmp_path / "repository")


def branch(repository: Path, remote: str | None = None, timeout_s: float = 60.0) -> GitBranch:
    return GitBranch(repository, branch=lambda name: name, remote=remote, timeout_s=timeout_s)


def test_a_branch_below_the_name_of_another_is_not_that_one(repository: Path) -> None:
    git(repository, "branch", "release")
    step = perform(branch(repository), lambda name: git(repository, "branch", "-m", name, f"{name}/1"), name="release")
    assert step.after_snapshot
    assert step.after_snapshot.absent


def test_a_remote_branch_whose_name_ends_alike_is_not_that_one(repository: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.git"
    git(repository, "clone", "--quiet", "--bare", str(repository), str(there))
    git(repository, "remote", "add", "origin", str(there))
    was = git(there, "rev-parse", "refs/heads/main")
    git(there, "update-ref", "refs/a/refs/heads/main", was)
    commit(repository, "the tool's")
    effect = branch(repository, "origin")
    step = perform(effect, lambda name: git(repository, "push", "--quiet", "origin", name), name="main")
    effect.restore(step)
    assert git(there, "rev-parse", "refs/heads/main") == was


def test_an_alias_of_another_branch_is_refused_before_the_tool(repository: Path) -> None:
    git(repository, "symbolic-ref", "refs/heads/master", "refs/heads/main")
    with pytest.raises(UsageError, match=r"refs/heads/master is an alias of refs/heads/main"):
        opened(branch(repository), name="master")


def test_a_branch_that_became_an_alias_leaves_the_other_one_alone(repository: Path) -> None:
    git(repository, "branch", "other")
    effect = branch(repository)
    step = perform(effect, lambda name: git(repository, "branch", name), name="new")
    git(repository, "symbolic-ref", "refs/heads/new", "refs/heads/other")
    refs = git(repository, "for-each-ref", "refs/heads")
    with pytest.raises(Conflict, match="alias"):
        effect.restore(step)
    assert git(repository, "for-each-ref", "refs/heads") == refs


def test_the_environment_of_a_hook_leads_to_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = git(repository, "rev-parse", "main")
    other = a_repository(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(other / ".git"))
        patch.setenv("GIT_WORK_TREE", str(other))
        touch = opened(branch(repository), name="main")
    assert touch.before
    assert touch.before.image["commit"] == main


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_what_no_command_can_take_is_no_name_of_a_branch(repository: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name of a branch"):
        opened(branch(repository), name=name)


def test_a_command_that_takes_too_long_leaves_no_lock(repository: Path) -> None:
    step = perform(branch(repository), lambda name: commit(repository, "the tool's"), name="main")
    hook = repository / ".git" / "hooks" / "reference-transaction"
    hook.write_text("#!/bin/sh\nwhile grep -q refs/heads; do sleep 5; done\n")
    hook.chmod(0o755)
    with pytest.raises(Transient, match="could not be run"):
        branch(repository, timeout_s=0.5).restore(step)
    hook.unlink()
    assert not [name for _, _, names in os.walk(repository / ".git") for name in names if name.endswith(".lock")]
    branch(repository).restore(step)
    assert step.before_snapshot
    assert git(repository, "rev-parse", "main") == step.before_snapshot.version


def test_words_of_a_remote_hook_that_are_no_utf8_are_an_answer(repository: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.git"
    git(repository, "clone", "--quiet", "--bare", str(repository), str(there))
    git(repository, "remote", "add", "origin", str(there))
    commit(repository, "the tool's")
    effect = branch(repository, "origin")
    step = perform(effect, lambda name: git(repository, "push", "--quiet", "origin", name), name="main")
    hook = there / "hooks" / "pre-receive"
    hook.write_bytes(b"#!/bin/sh\nprintf 'no \\377\\n' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Transient, match=r"no \\udcff"):
        effect.restore(step)
