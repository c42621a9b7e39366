"""What every package rests on: files that are whole or absent, locks, settings."""

import errno
import multiprocessing as mp
import os

import pytest

from taskspace import TaskspaceError
from taskspace.files import is_locked, lock_holder, locked, sweep, write_atomically, written

posix = pytest.mark.skipif(os.name == "nt", reason="forks and flock of POSIX")


def test_a_directory_is_whole_or_absent(tmp_path):
    with pytest.raises(ZeroDivisionError), written(tmp_path / "model") as scratch:
        scratch.mkdir()
        (scratch / "half").write_text("1")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with written(tmp_path / "model") as scratch:
        (scratch / "inside").mkdir(parents=True)
        (scratch / "inside" / "weights").write_text("1")
    with written(tmp_path / "model") as scratch:  # what is there stays
        scratch.mkdir()
    assert (tmp_path / "model" / "inside" / "weights").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_all_that_is_written_is_synced_before_its_name_is_there(tmp_path, monkeypatch):
    seen, sync = [], os.fsync

    def watch(fd):
        seen.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), (tmp_path / "f").exists()))
        sync(fd)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs Linux to see which file is synced")
    monkeypatch.setattr(os, "fsync", watch)
    write_atomically(tmp_path / "f", b"bytes")
    assert seen == [(f".f.{os.getpid()}.tmp", False), (tmp_path.name, True)]


def test_sweep_takes_temporary_names_alone(tmp_path):
    (tmp_path / ".checkpoint-5.123.tmp").mkdir()
    (tmp_path / "f.tmp").write_text("half")
    (tmp_path / "f").write_text("whole")
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def hold(path, enough):
    with locked(path):
        enough.wait(60)


@posix
def test_a_lock_keeps_other_processes_out_until_it_is_free(tmp_path):
    path = tmp_path / "deep" / "lock"
    fork = mp.get_context("fork")
    enough = fork.Event()
    other = fork.Process(target=hold, args=(path, enough))
    other.start()
    while not is_locked(path):
        pass
    with pytest.raises(BlockingIOError, match=f"process {other.pid} on "), locked(path, wait=False):
        pass
    enough.set()
    with locked(path):
        assert lock_holder(path).startswith(f"process {os.getpid()} on ")
    other.join()
    assert not is_locked(path) and not is_locked(tmp_path / "none") and lock_holder(tmp_path) == "unknown process"


@posix
def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    "It gives another error than a lock that is taken, and waiting for it would never end."
    import fcntl

    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock", wait=False):
        assert not is_locked(tmp_path / "lock")


def test_a_full_disk_has_its_own_words(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TaskspaceError, match="f: no space left on the disk; free some"):
        write_atomically(tmp_path / "f", b"bytes")
    assert not list(tmp_path.iterdir())
