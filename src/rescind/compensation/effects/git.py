"""A branch of a git repository as an effect."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rescind.compensation.effects.one_place import OnePlace, before_of, is_to_put_back
from rescind.errors import Conflict, RescindError, Transient, UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target

_KEPT = "refs/rescind/kept"
_FETCH = ("fetch", "--no-tags", "--quiet", "--refmap=", "--")  # into our references alone, not into those of the remote

_LEAVE_S = 5.0  # how long a command may take to remove its locks once it is told to end
_OF_ANOTHER = frozenset(  # what `git rev-parse --local-env-vars` names, without what configures
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)


class GitFailed(RescindError):
    """Git could not be asked, or said no."""


class GitBranch(OnePlace):
    """Where a branch points, before and after a call; the undo moves it back, if nobody has moved it since.

        branch = GitBranch("/srv/site", branch=lambda name: name)

        @guard.write("site.publish", effect=branch)
        def publish(name: str, text: str) -> None: ...     # commits, merges, rebases, deletes the branch

    Comparing and moving are one step of git's own (`update-ref` with the old value; at a remote, a push with
    `--force-with-lease`): commits that somebody put on top are a conflict. Index and working tree are not touched, so
    let tools commit to branches that nobody has checked out. The commits of both sides are kept from git's clean-up by
    references below `refs/rescind/kept`, which nothing removes. An alias of another branch is refused.
    The version is the commit: a branch that was moved away and back has, for an undo, not moved.
    """

    parallel = True

    def __init__(
        self,
        repository: str | Path,
        *,
        branch: Callable[..., str],
        remote: str | None = None,
        system: str = "git",
        timeout_s: float = 60.0,
    ) -> None:
        """Guard branches of a repository.

        Args:
            repository: The local repository, bare or not.
            branch: Which branch, as a function of those of the tool's arguments that it names.
            remote: The remote whose branch it is; by default the local one. Git must reach it without asking anybody.
            system: What targets call it.
            timeout_s: How long one command of git may take.
        """
        super().__init__(branch, role="branch", system=system)
        self._repository, self._remote, self._timeout_s = Path(repository), remote, timeout_s

    @property
    def is_remote(self) -> bool:
        """Whether the branch is another repository's."""
        return self._remote is not None

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the branch."""
        return Target(self._system, "branch", self._ref_of(arguments).removeprefix("refs/heads/"))

    def open(self, call: Call) -> "_BranchTouch":
        """See `Effect`. Raises: UsageError for what is no name of a branch; GitFailed."""
        ref = self._ref_of(call.arguments)
        before = self.look(ref)
        self.keep(before)
        return _BranchTouch(self, ref, before)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(step.before["ref"]) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`; without a commit, no branch. Raises: Conflict, if the commit is not here."""
        commit = str(image["commit"]) if image else ""
        if commit:
            try:
                commit = self._git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}").strip()
            except GitFailed as error:
                raise Conflict(f"{commit!r} is no commit of this repository, so the branch was not moved") from error
        return _pointing(step.before["ref"], commit)

    def restore(self, step: PastStep) -> None:
        """See `Effect`."""
        before = before_of(step, "where the branch was")
        ref = before.image["ref"]
        try:
            now = self.look(ref)
        except UsageError as error:
            raise Conflict(f"not as the step left it: {error}") from error
        if not is_to_put_back(step, now, ref, unlike=lambda _: f", but at {_commit(now) or 'nothing'}"):
            return
        try:
            self.keep(now)
            self._move(ref, _commit(before), _commit(now))
        except GitFailed as error:
            seen = self.look(ref)
            if seen.version == before.version:
                return
            if seen.version == now.version:
                raise Transient(str(error)) from error
            raise Conflict(f"{ref} is not as the step left it: it moved just now; it was not touched") from error

    def look(self, ref: str) -> Snapshot:
        """Where it points now. Raises: GitFailed; UsageError for an alias of another branch."""
        if self._remote is None:
            found = self._git("for-each-ref", "--format=%(objectname)%09%(refname)%09%(symref)", ref)
        else:
            found = self._git("ls-remote", "--", self._remote, ref)
        # What git is asked for is a pattern: without such a branch it finds those below its name, and at a remote all
        # whose names end alike.
        for line in found.splitlines():
            commit, name, *symbolic = line.split("\t")
            if name == ref:
                if any(symbolic):
                    raise UsageError(
                        f"{ref} is an alias of {symbolic[0]}, which would be moved in its place; guard that"
                    )
                return _pointing(ref, commit)
        return _pointing(ref, "")

    def keep(self, snapshot: Snapshot) -> None:
        """Keep its commit from git's clean-up, and here if it is a remote's."""
        commit = _commit(snapshot)
        if commit and self._remote is not None:
            self._git(*_FETCH, self._remote, f"+{snapshot.image['ref']}:{_KEPT}/{commit}")
        elif commit:
            self._git("update-ref", f"{_KEPT}/{commit}", commit)

    def _move(self, ref: str, to: str, expected: str) -> None:
        if self._remote is not None:
            lease = f"--force-with-lease={ref}:{expected}"
            self._git("push", "--quiet", "--no-verify", lease, "--", self._remote, f"{to}:{ref}")
        elif to:
            self._git("update-ref", "--no-deref", "-m", "rescind undo", ref, to, expected or "0" * len(to))
        else:
            self._git("update-ref", "--no-deref", "-m", "rescind undo", "-d", ref, expected)

    def _ref_of(self, arguments: Mapping[str, Any]) -> str:
        name = self._name(arguments)
        try:
            self._git("check-ref-format", f"refs/heads/{name}")
        except GitFailed as error:
            raise UsageError(f"{name!r} is no name of a branch; the tool was not run") from error
        return f"refs/heads/{name}"

    def _git(self, *arguments: str) -> str:
        """Raises: GitFailed, also where git is missing or takes too long."""
        # Not what a hook of git's, or whoever else has started this process, says of another repository.
        environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        command = ["git", "-C", str(self._repository), *arguments]
        try:
            with subprocess.Popen(  # noqa: S603  # no shell, and each name is checked
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="surrogateescape",  # what a remote's hooks say may be anything
                env=environment,
            ) as process:
                said, problem = self._until_it_ends(process)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise GitFailed(f"git {arguments[0]} could not be run: {error}") from error
        if process.returncode != 0:
            raise GitFailed(f"git {arguments[0]} failed: {_printable(problem)}")
        return said

    def _until_it_ends(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """What it wrote. Raises: subprocess.TimeoutExpired."""
        try:
            return process.communicate(timeout=self._timeout_s)
        except BaseException:
            process.terminate()  # a git that is killed leaves its locks, and nobody could move the branch any more
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _printable(text: str) -> str:
    return text.strip()[:500].encode("utf-8", "backslashreplace").decode()


def _pointing(ref: str, commit: str) -> Snapshot:
    return Snapshot.of({"ref": ref, "commit": commit}, version=commit or "absent", absent=not commit)


def _commit(snapshot: Snapshot) -> str:
    return str(snapshot.image["commit"])


class _BranchTouch:
    """See `Touch`."""

    def __init__(self, effect: GitBranch, ref: str, before: Snapshot) -> None:
        self.before = before
        self._effect, self._ref = effect, ref

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`. The commit is kept: somebody may move the branch away from it before it is undone."""
        after = self._effect.look(self._ref)
        self._effect.keep(after)
        return after

    def abandon(self) -> bool:
        """See `Touch`. A branch here is where it is; a push to a remote whose reply was lost may still arrive."""
        try:
            return not self._effect.is_remote and self._effect.look(self._ref) == self.before
        except (GitFailed, UsageError):
            return False
