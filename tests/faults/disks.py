"""Small disks of our own, mounted in a test's folder: one that can be filled, and one that can be made to hang."""

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

from faults.machine import PATIENCE_S, boot_s, cannot, need_root_and, sh

_FREEZER = 'fsfreeze -f "$0" && echo frozen && read -r line; fsfreeze -u "$0"'
"""Ends the frost as well if whoever wanted it is gone: its end of the pipe is closed then."""


@contextlib.contextmanager
def small_disk(folder: Path, *, size: str = "2M") -> Iterator[Path]:
    """A file system in memory that holds so much."""
    need_root_and("mount", "umount")
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield folder


@contextlib.contextmanager
def ext4_disk(folder: Path, image: Path) -> Iterator[Path]:
    """A file system of a real kind, on a file."""
    need_root_and("mount", "umount", "mkfs.ext4", "fsfreeze", "losetup")
    with image.open("wb") as file:
        file.truncate(32 * 1024 * 1024)
    sh("mkfs.ext4", "-q", str(image))
    with _mounted(folder, "-o", "loop", str(image)):
        yield folder


@contextlib.contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Whatever is written there hangs in the kernel until the end of the block; reading goes on."""
    freezer = subprocess.Popen(
        ["sh", "-c", _FREEZER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert freezer.stdout is not None
    try:
        assert freezer.stdout.readline() == "frozen\n"
        yield
    finally:
        freezer.communicate("thaw\n", timeout=PATIENCE_S)


def fill(folder: Path) -> Path:
    """Write until nothing more goes; the file that does it, to be deleted for making room."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for piece in (b"\0" * 65_536, b"\0" * 512):
            with contextlib.suppress(_Full):
                while True:
                    _write(descriptor, piece)
    finally:
        os.close(descriptor)
    return filler


class _Full(Exception):
    pass


def _write(descriptor: int, piece: bytes) -> None:
    try:
        os.write(descriptor, piece)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _Full from error


@contextlib.contextmanager
def _mounted(folder: Path, *how: str) -> Iterator[None]:
    folder.mkdir()
    try:
        sh("mount", *how, str(folder))
    except CalledProcessError as error:
        cannot(f"this machine mounts nothing for us: {error.stdout.strip()}")
    try:
        yield
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    deadline_s = boot_s() + PATIENCE_S
    while True:  # a process that was just killed may hold it for a moment
        try:
            sh("umount", str(folder))
        except CalledProcessError:
            if boot_s() > deadline_s:
                sh("umount", "--lazy", str(folder))
                raise
            time.sleep(0.05)
        else:
            return
