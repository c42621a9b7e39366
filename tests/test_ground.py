"""What every package rests on: files that are whole or absent, locks, settings."""

import errno
import multiprocessing as mp
import os
import pickle
import time
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from taskspace import TaskspaceError
from taskspace.errors import shown
from taskspace.files import is_locked, lock_holder, locked, sweep, text_of, write_atomically, written
from taskspace.settings import checked, parse_settings

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


# -- text and messages


def test_a_message_is_one_short_line_that_any_file_can_hold():
    odd = "a\nb\u2028c\x1b[31m\ud83d\u202e" + "x" * 10**6 + "; do this"
    text = str(TaskspaceError(f"mine.csv: {odd}"))
    assert len(text) <= 2000 and len(text.splitlines()) == 1 and text.encode() and text.isprintable()
    assert text.startswith("mine.csv: a b c") and text.endswith("; do this")
    assert str(pickle.loads(pickle.dumps(TaskspaceError(odd)))) == str(TaskspaceError(odd))
    assert str(TaskspaceError("names  like 'naïve 日本語 🙂' stay")) == "names  like 'naïve 日本語 🙂' stay"


class Silent:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, b"x" * 10**7, 10**5000, [["x" * 10**6] * 1000] * 1000, {"x" * 10**6: {1: {2: {3: {}}}}}, Silent()],
    ids=["text", "bytes", "number", "list", "mapping", "no repr"],
)
def test_what_was_read_is_shown_in_short(value):
    began = time.perf_counter()
    assert 0 < len(shown(value)) <= 100 and time.perf_counter() - began < 1
    assert shown("a short text") == repr("a short text") and shown([1, "b"]) == "[1, 'b']"


def test_text_has_no_byte_order_marks_and_the_lines_that_an_editor_shows(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffa\ufeffb\u2028c\r\n\ufeffd\re\x85f\n".encode())
    assert text_of(file) == "a\ufeffb\u2028c\nd\ne\x85f\n"
    assert text_of(file, newline="") == "a\ufeffb\u2028c\r\nd\re\x85f\n"
    for bad in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(TaskspaceError):
            text_of(bad)


# -- settings


class Part(BaseModel):
    width: Literal[1, 2]


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = ""
    parts: list[Part] = []


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

SETTINGS = {
    "aliases of aliases": (BOMB, "aliases repeat more than 1,000,000"),
    "merged aliases": (
        "a: &a {x: 1, y: 2}\n"
        + "".join(
            f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "aliases repeat more than",
    ),
    "a value that holds itself": ("name: &a [*a]\n", "aliases repeat more than"),
    "a mapping that holds itself": ("name: &a {x: *a}\n", "aliases repeat more than"),
    "more text than settings have": ("name: " + "x" * 10**7, "letters; settings may have 1,000,000"),
    "a long name": ("x" * 10**5 + ": 1\n", "not valid YAML"),
    "a long unknown field": ("? " + "x" * 10**5 + "\n: 1\n", "there is no such field"),
    "a long text for a number": ("parts: [{width: " + "x" * 10**5 + "}]\n", "parts.0.width: "),
    "a long list for a name": ("name: [" + "x, " * 10**4 + "]\n", "name: "),
    "lone surrogate": ('name: "a\\ud83d"\n', "line 1: not valid YAML (a lone surrogate, half of a character)"),
    "lone surrogate as a field": (
        '\n"a\\ud83d": 1\n',
        "line 2: not valid YAML (a lone surrogate, half of a character)",
    ),
    "a null": ("name: a\0b\n", "not valid YAML"),
    "nested too deeply": ("name: " + "[" * 10**4, "not valid YAML"),
    "a number of thousands of digits": ("name: " + "9" * 5000 + "\n", "not valid YAML"),
    "a field twice": ("name: a\nname: b\n", "line 2: not valid YAML (name: given twice)"),
    "a long field twice": (f"{'x' * 100}: a\n{'x' * 100}: b\n", "given twice"),
    "a field that is a list": ("? [a, b]\n: 1\n", "not valid YAML"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_any_size_get_one_short_line_at_once(case):
    text, says = SETTINGS[case]
    began = time.perf_counter()
    with pytest.raises(TaskspaceError) as e:
        checked(Whole, parse_settings(text, "mine.yaml", "name and parts"), "mine.yaml")
    assert str(e.value).startswith("mine.yaml") and says in str(e.value)
    assert len(str(e.value)) <= 2000 and time.perf_counter() - began < 10  # most take milliseconds


def test_a_key_is_a_name_also_where_yaml_sees_a_switch():
    text = "on: &base {off: off, 'no': 1}\nmore: {<<: *base, yes: no}\n"
    expected = {"off": False, "no": 1}
    assert parse_settings(text, "f", "on") == {"on": expected, "more": {**expected, "yes": False}}


def test_aliases_that_repeat_a_little_are_fine():
    text = "\ufeffbase: &b {width: 1}\nparts: [*b, *b, {<<: *b, width: 2}]\n"
    data = parse_settings(text, "mine.yaml", "parts")
    assert data["parts"] == [{"width": 1}, {"width": 1}, {"width": 2}]
