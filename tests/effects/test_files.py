"""What `Files` promises beyond the contract."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effects.harness import opened, perform, version_now
from effects.worlds import tree_content
from rescind.compensation.effects import Files
from rescind.compensation.effects.files_restore import HalfWay
from rescind.compensation.effects.manifest import as_name, as_text
from rescind.errors import Conflict, UsageError
from rescind.guard.effect import PastStep
from rescind.model.step import Target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def guarded(root: Path, **options: Any) -> Files:
    return Files(lambda path: path, root=root, keep=root.parent / "kept", **options)


def written(path: Path, text: str) -> Callable[..., None]:
    def write(**_: Any) -> None:
        path.write_text(text)

    return write


# --- which path ---


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../outside", ".", "", "..", "a/../..", "/", "//", "out/x"]
)
def test_a_path_outside_the_root_is_refused(root: Path, path: str) -> None:
    (root / "a").mkdir()
    (root / "out").symlink_to(root.parent)
    with pytest.raises(UsageError, match="is not below the root"):
        opened(guarded(root), path=path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 7, None])
def test_what_is_no_path_is_refused(root: Path, path: Any) -> None:
    with pytest.raises(UsageError):
        opened(guarded(root), path=path)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"root .*nowhere cannot be used"):
        opened(Files(lambda: "x", root=tmp_path / "nowhere", keep=tmp_path / "kept"))


def test_the_copies_may_not_be_inside_what_they_are_of(root: Path) -> None:
    with pytest.raises(UsageError, match="keep them elsewhere"):
        opened(Files(lambda: "a", root=root, keep=root / "a" / "kept"))


def test_the_target_is_the_resolved_path(root: Path) -> None:
    (root / "real").mkdir()
    (root / "alias").symlink_to("real")
    assert guarded(root).target({"path": "alias/./x/../new.txt"}) == Target("file", "path", "real/new.txt")
    assert guarded(root).target({"path": root / "real"}) == Target("file", "path", "real")


def test_links_are_kept_as_links_and_never_followed(root: Path) -> None:
    secret = root.parent / "secret.txt"
    secret.write_text("secret")
    (root / "link").symlink_to(secret)
    step = perform(guarded(root), lambda path: (root / path).unlink(), path="link")
    assert step.before["entries"] == {"": {"type": "link", "target": str(secret)}}
    secret.write_text("new")
    guarded(root).restore(step)
    assert (root / "link").readlink() == secret
    assert secret.read_text() == "new"


def test_a_folder_that_became_a_link_out_of_the_root_is_a_conflict(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "f").write_text("before")
    step = perform(guarded(root), written(root / "a" / "f", "after"), path="a/f")
    elsewhere = root.parent / "elsewhere"
    (root / "a").rename(elsewhere)
    (root / "a").symlink_to(elsewhere)
    with pytest.raises(Conflict):
        guarded(root).restore(step)
    assert (elsewhere / "f").read_text() == "after"


# --- limits ---


def test_bounds_refuse_before_the_tool_and_copy_nothing_more(root: Path) -> None:
    (root / "big").write_bytes(b"x" * 1001)
    with pytest.raises(UsageError, match="bytes_max"):
        opened(guarded(root, bytes_max=1000), path="big")
    (root / "many").mkdir()
    for number in range(5):
        (root / "many" / str(number)).touch()
    with pytest.raises(UsageError, match="more than 5 paths"):
        opened(guarded(root, entries_max=5), path="many")
    deep = root / "deep"
    deep.joinpath(*["d"] * 110).mkdir(parents=True)
    with pytest.raises(UsageError, match="nested deeper"):
        opened(guarded(root), path="deep")


def test_what_is_no_file_is_refused(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(UsageError, match="no file, folder or link"):
        opened(guarded(root), path="pipe")


# --- copies ---


def test_copies_are_private_deduplicated_and_named_by_their_hash(root: Path) -> None:
    (root / "tree").mkdir()
    for name in ("a", "b"):
        (root / "tree" / name).write_text("same")
    assert opened(guarded(root), path="tree").abandon()
    kept = [path for path in (root.parent / "kept").rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert kept[0].stat().st_mode & 0o777 == 0o600
    assert (root.parent / "kept").stat().st_mode & 0o777 == 0o700


def test_a_copy_whose_name_nobody_made_durable_is_made_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").write_text("content")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, "replace", _dying_after(os.replace))
        opened(guarded(root), path="a")
    (copy,) = (path for path in (root.parent / "kept").rglob("*") if path.is_file())
    synced: list[Path] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    opened(guarded(root), path="a").abandon()
    assert copy.parent in synced


def _dying_after(call: Callable[..., Any]) -> Callable[..., Any]:
    def instead(*args: Any, **kwargs: Any) -> Any:
        call(*args, **kwargs)
        raise Crash

    return instead


@pytest.mark.parametrize("damage", [lambda path: path.write_text("wrong"), lambda path: path.unlink()])
def test_a_damaged_copy_is_noticed_before_anything_changes(root: Path, damage: Callable[[Path], None]) -> None:
    (root / "tree").mkdir()
    (root / "tree" / "a").write_text("before")
    step = perform(guarded(root), lambda path: shutil.rmtree(root / path), path="tree")
    (blob,) = [path for path in (root.parent / "kept").rglob("*") if path.is_file()]
    damage(blob)
    content = tree_content(root)
    with pytest.raises(Conflict, match=r"damaged|missing"):
        guarded(root).restore(step)
    assert tree_content(root) == content


# --- restore ---


def test_hostile_names_are_put_back(root: Path) -> None:
    tree = root / "t"
    tree.mkdir()
    names = ["new\nline", " ", "-rf", "\\udc80", "quote'\"", "ünï", "*", "$(x)", "a" * 255, "..."]
    for name in names:
        (tree / name).write_text(name)
    (tree / os.fsdecode(b"\xff\xfe")).write_text("bytes")
    content = tree_content(root)
    step = perform(guarded(root), lambda path: shutil.rmtree(root / path), path="t")
    guarded(root).restore(step)
    assert tree_content(root) == content


@given(st.binary(min_size=1, max_size=12))
def test_every_name_has_its_text(name: bytes) -> None:
    decoded = os.fsdecode(name)
    assert as_name(as_text(decoded)) == decoded
    as_text(decoded).encode()


def test_the_conflict_names_the_paths(root: Path) -> None:
    (root / "t").mkdir()
    step = perform(guarded(root), written(root / "t" / "a", "a"), path="t")
    (root / "t" / "b").write_text("others")
    content = tree_content(root)
    with pytest.raises(Conflict, match=r"nothing was changed: b$"):
        guarded(root).restore(step)
    assert tree_content(root) == content


def test_a_missing_folder_above_is_made_again(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("before")
    step = perform(guarded(root), lambda path: (root / path).unlink(), path="a/b/f")
    shutil.rmtree(root / "a")
    guarded(root).restore(step)
    assert (root / "a" / "b" / "f").read_text() == "before"


def test_a_new_file_whose_folder_is_gone_needs_nothing(root: Path) -> None:
    (root / "a").mkdir()
    step = perform(guarded(root), written(root / "a" / "f", "new"), path="a/f")
    shutil.rmtree(root / "a")
    guarded(root).restore(step)
    assert tree_content(root) == {}


def test_a_conflict_makes_no_folders(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("before")
    step = perform(guarded(root), written(root / "a" / "b" / "f", "after"), path="a/b/f")
    shutil.rmtree(root / "a")
    with pytest.raises(Conflict, match="gone with the folder"):
        guarded(root).restore(step)
    assert tree_content(root) == {}


def test_a_file_that_goes_while_its_folder_is_read_does_not_make_the_folder_absent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "t").mkdir()
    (root / "t" / "stays").write_text("stays")
    (root / "t" / "goes").write_text("somebody's temporary file")
    open_file = os.open

    def open_late(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == "goes":
            (root / "t" / "goes").unlink(missing_ok=True)
        return open_file(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_late)
    step = perform(guarded(root), lambda path: (root / path / "new").write_text("new"), path="t")
    assert set(step.before["entries"]) == {"", "stays"}
    guarded(root).restore(step)
    assert [path.name for path in (root / "t").iterdir()] == ["stays"]


def test_what_stops_half_way_is_no_conflict_and_is_finished_by_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = a_tree(root)
    content = tree_content(root)
    step = perform(guarded(root), lambda path: turn_over(tree), path="t")
    unlink = os.unlink

    def not_permitted(name: Any, **kwargs: Any) -> None:
        if name == "y":
            raise PermissionError(1, "Operation not permitted", name)
        unlink(name, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", not_permitted)
        with pytest.raises(HalfWay, match="put back in part"):
            guarded(root).restore(step)
    guarded(root).restore(step)
    assert tree_content(root) == content


def a_tree(root: Path) -> Path:
    tree = root / "t"
    for folder in ("gone/deep", "stays", "becomes-file", "locked"):
        (tree / folder).mkdir(parents=True)
    for name in ("gone/a", "gone/deep/b", "stays/c", "becomes-file/d", "becomes-folder", "locked/e"):
        (tree / name).write_text(name)
    (tree / "link").symlink_to("stays/c")
    (tree / "locked").chmod(0o550)
    return tree


def turn_over(tree: Path) -> None:
    shutil.rmtree(tree / "gone")
    shutil.rmtree(tree / "becomes-file")
    (tree / "becomes-file").write_text("file now")
    (tree / "becomes-folder").unlink()
    (tree / "becomes-folder" / "x").mkdir(parents=True)
    (tree / "becomes-folder" / "x" / "y").write_text("y")
    (tree / "stays" / "c").write_text("changed")
    (tree / "link").unlink()
    (tree / "link").write_text("no link")
    (tree / "locked").chmod(0o750)
    (tree / "locked" / "e").unlink()
    (tree / "locked").chmod(0o500)


class Crash(BaseException):
    """The process dies."""


def test_dying_at_any_moment_leaves_something_that_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0
    for moment in range(1000):
        root = tmp_path / str(moment) / "root"
        root.mkdir(parents=True)
        tree = a_tree(root)
        content = tree_content(root)
        step = perform(guarded(root), lambda path, tree=tree: turn_over(tree), path="t")
        if not _restore_dying_at(moment, guarded(root), step, monkeypatch):
            break
        crashes += 1
        guarded(root).restore(step)
        assert tree_content(root) == content, moment
        assert step.before_snapshot
        assert version_now(guarded(root), step) == step.before_snapshot.version
    assert crashes > 50


def test_somebodys_change_after_a_crash_is_still_a_conflict(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = a_tree(root)
    step = perform(guarded(root), lambda path: turn_over(tree), path="t")
    assert _restore_dying_at(45, guarded(root), step, monkeypatch)
    assert any(path.name.startswith(".rescind-undo-") for path in root.iterdir())
    (tree / "stays" / "c").write_text("others")
    content = tree_content(tree)
    with pytest.raises(Conflict, match="stays/c"):
        guarded(root).restore(step)
    assert tree_content(tree) == content


def _restore_dying_at(moment: int, effect: Files, step: PastStep, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Die before the change of the file system with this number. Returns: whether it came to that."""
    left = moment

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            return call(*args, **kwargs)

        return instead

    with monkeypatch.context() as patch:
        for name in ("mkdir", "rmdir", "unlink", "rename", "symlink", "fchmod", "write", "fsync"):
            patch.setattr(os, name, dying(getattr(os, name)))
        try:
            effect.restore(step)
        except Crash:
            return True
    return False


NAMES = st.sampled_from(["a", "b", "c"])
SHAPES = st.recursive(
    st.binary(max_size=3) | st.sampled_from(["a", "/nowhere"]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def build(path: Path, shape: Any) -> None:
    if isinstance(shape, bytes):
        path.write_bytes(shape)
    elif isinstance(shape, str):
        path.symlink_to(shape)
    else:
        path.mkdir()
        for name, inner in shape.items():
            build(path / name, inner)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(before=SHAPES, after=SHAPES)
def test_any_shape_comes_back(root: Path, before: Any, after: Any) -> None:
    clear(root / "t")
    build(root / "t", before)
    content = tree_content(root)

    def tool(path: str) -> None:
        clear(root / path)
        build(root / path, after)

    step = perform(guarded(root), tool, path="t")
    guarded(root).restore(step)
    assert tree_content(root) == content
