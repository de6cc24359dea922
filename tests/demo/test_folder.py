"""`--keep`: what it takes over, and what it leaves alone."""

import os
import sys
from pathlib import Path

import pytest

from rescind.demo.folder import MARKER, demo_folder
from rescind.errors import UsageError


def test_without_keep_the_folder_is_gone_afterwards_even_after_a_failure() -> None:
    with pytest.raises(KeyError), demo_folder(None) as folder:
        (folder / "billing.db").write_text("…")
        raise KeyError
    assert not folder.exists()


def test_a_new_folder_is_made_with_everything_an_undo_needs(tmp_path: Path) -> None:
    with demo_folder(tmp_path / "not" / "there" / "yet") as folder:
        assert {path.name for path in folder.iterdir()} == {MARKER, "desk.py", "rescind.yaml"}


def test_a_relative_folder_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with demo_folder(Path("kept")) as folder:
        assert folder == tmp_path / "kept"


def test_a_former_demo_is_replaced_and_what_others_put_there_stays(tmp_path: Path) -> None:
    with demo_folder(tmp_path) as folder:
        (folder / "billing.db").write_text("old")
        (folder / ".rescind").mkdir()
        (folder / ".rescind" / "journal.db").write_text("old")
        (folder / "my notes.txt").write_text("mine")
    with demo_folder(tmp_path) as folder:
        assert not (folder / "billing.db").exists()
        assert not (folder / ".rescind").exists()
        assert (folder / "my notes.txt").read_text() == "mine"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "billing.db").write_text("the real one")
    with pytest.raises(UsageError, match="not empty"), demo_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["billing.db"]


def test_a_marker_that_is_not_ours_marks_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    linked, written = tmp_path / "linked", tmp_path / "written"
    for folder in (linked, written):
        folder.mkdir()
    (linked / MARKER).symlink_to(precious)
    (written / MARKER).write_text("something")
    for folder in (linked, written):
        with pytest.raises(UsageError, match="not empty"), demo_folder(folder):
            pass
    assert precious.read_text() == "keep me"


def test_links_in_a_former_demo_are_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "journal.db").write_text("of another program")
    kept = tmp_path / "kept"
    with demo_folder(kept):
        pass
    (kept / ".rescind").symlink_to(elsewhere)
    (kept / "desk.py").unlink()
    (kept / "desk.py").symlink_to(elsewhere / "journal.db")
    with demo_folder(kept):
        pass
    assert (elsewhere / "journal.db").read_text() == "of another program"
    assert not (kept / ".rescind").exists()


def test_a_demo_that_was_killed_at_its_beginning_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    with demo_folder(tmp_path):
        assert (tmp_path / MARKER).read_text()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with demo_folder(tmp_path):
        (tmp_path / "billing.db").write_text("of the first")
        with pytest.raises(UsageError, match="another demo is running"), demo_folder(tmp_path):
            pass
        assert (tmp_path / "billing.db").read_text() == "of the first"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used"), demo_folder(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be used"), demo_folder(tmp_path / "kept"):
        pass


def test_the_kept_desk_is_an_app_for_undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with demo_folder(tmp_path) as folder:
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "desk", raising=False)
        import desk  # type: ignore[import-not-found]  # it is in the folder

        assert {*desk.guard.compensators} >= {"subscription.set_status", "customer.charge", "customer.mail"}
        sys.modules.pop("desk")
