"""The guard of files: by threads and processes, where a writer is killed or stopped on the way, and by odd names."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guards.test_guard_tokens import NO_TOKENS

from keylane.guards import Busy, StaleToken, Unusable, files

PIPED = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
DEADLINE_S = 60.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.json"


def beside(file: Path) -> set[str]:
    return {path.name for path in file.parent.iterdir()}


def test_a_lower_token_is_refused_and_an_equal_one_passes(file: Path) -> None:
    for token, data in ((5, b"v1"), (5, b"v2"), (9, b"v3")):
        files.write(file, data, token)
    with pytest.raises(StaleToken) as refused:
        files.write(file, b"late", 8)
    assert (refused.value.resource, refused.value.token, refused.value.highest) == (str(file), 8, 9)
    assert file.read_bytes() == b"v3"
    assert files.highest(file) == 9


def test_without_the_guard_the_same_is_overwritten(file: Path) -> None:
    files.write(file, b"v3", 9)
    file.write_bytes(b"late")
    assert file.read_bytes() == b"late"


def test_who_reads_before_a_change_shuts_lower_ones_out(file: Path) -> None:
    files.write(file, b"v1", 5)
    assert files.read(file, 9) == b"v1"
    with pytest.raises(StaleToken):
        files.write(file, b"between reading and writing", 5)
    files.write(file, b"v2", 9)
    with pytest.raises(StaleToken):
        files.read(file, 5)


def test_a_file_that_is_not_there(file: Path) -> None:
    assert files.highest(file) is None
    with pytest.raises(FileNotFoundError):
        files.read(file, 9)
    with pytest.raises(StaleToken):
        files.write(file, b"late", 8)
    with pytest.raises(FileNotFoundError):
        files.write(file.parent / "no folder" / "x", b"", 1)


def test_a_file_that_was_removed_keeps_its_token(file: Path) -> None:
    files.write(file, b"v1", 9)
    file.unlink()
    with pytest.raises(StaleToken):
        files.write(file, b"late", 8)


def test_nothing_but_lock_and_token_is_left_beside(file: Path) -> None:
    files.write(file, b"v1", 9)
    assert beside(file) == {"image.json", ".image.json.keylane-lock", ".image.json.keylane-token"}
    assert (file.parent / ".image.json.keylane-token").read_text() == "9\n"


def test_permissions_stay_and_new_files_follow_the_umask(file: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(file, b"v1", 1)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    finally:
        os.umask(before)
    file.chmod(0o755)
    files.write(file, b"v2", 2)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_a_file_has_one_token_by_whatever_link_it_is_reached(file: Path) -> None:
    link, folder = file.parent / "link", file.parent / "folder"
    link.symlink_to("image.json")
    folder.symlink_to(".")
    files.write(link, b"v1", 9)
    assert link.is_symlink()
    assert file.read_bytes() == b"v1"
    for name in (file, link, folder / "image.json", file.parent / "." / "x" / ".." / "image.json"):
        with pytest.raises(StaleToken):
            files.write(name, b"late", 8)


@pytest.mark.parametrize(
    "name",
    ["-rf", ".hidden", " ", "a\nb", "'; --", "%s", "日本語🙂", "é" * 100, os.fsdecode(b"\xff\xfe"), "a.keylane-token"],
    ids=repr,
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    files.write(file, b"v1", 9)
    with pytest.raises(StaleToken):
        files.write(file, b"late", 8)
    assert file.read_bytes() == b"v1"
    assert len(beside(file)) == 3


@pytest.mark.parametrize("kind", ["lock", "token", "new"])
def test_what_the_guard_keeps_is_not_to_be_written(file: Path, kind: str) -> None:
    files.write(file, b"v1", 9)
    with pytest.raises(Unusable) as refused:
        files.write(file.parent / f".image.json.keylane-{kind}", b"1", 10)
    assert refused.value.code == "BAD_TARGET"
    assert files.highest(file) == 9


@pytest.mark.parametrize("token", NO_TOKENS, ids=repr)
def test_what_is_no_token_leaves_no_trace(file: Path, token: object) -> None:
    with pytest.raises(Unusable):
        files.write(file, b"x", token)  # type: ignore[arg-type]
    assert beside(file) == set()


@pytest.mark.parametrize("text", [b"", b"nine\n", b"9 \n", b"-1\n", b"\xff", b"9" * 60])
def test_a_token_file_that_is_damaged_lets_nobody_pass(file: Path, text: bytes) -> None:
    files.write(file, b"v1", 9)
    (file.parent / ".image.json.keylane-token").write_bytes(text)
    with pytest.raises(Unusable, match="keylane-token"):
        files.write(file, b"v2", 10)
    assert file.read_bytes() == b"v1"


def test_a_write_that_fails_leaves_the_file_and_keeps_the_token(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(file, b"v1", 5)
    replace = os.replace

    def full(new: str, path: str) -> None:
        if path == str(file):
            raise OSError(28, "No space left on device")
        replace(new, path)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        files.write(file, b"v2", 9)
    monkeypatch.undo()
    assert file.read_bytes() == b"v1"
    assert beside(file) == {"image.json", ".image.json.keylane-lock", ".image.json.keylane-token"}
    with pytest.raises(StaleToken):
        files.write(file, b"late", 8)
    files.write(file, b"v2", 9)


def test_the_token_is_on_the_disk_before_the_file_and_the_file_before_its_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def replaced(new: str, path: str) -> None:
        done.append(f"rename {Path(path).name}")
        replace(new, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    files.write(file, b"v1", 5)
    token, folder = ".image.json.keylane-token", file.parent.name
    assert done == [
        f"fsync .{token}.keylane-new",
        f"rename {token}",
        f"fsync {folder}",
        "fsync .image.json.keylane-new",
        "rename image.json",
        f"fsync {folder}",
    ]


# At once.


def test_who_waits_too_long_for_another_is_told(file: Path) -> None:
    with files.holding(file, 5), pytest.raises(Busy) as refused:
        files.write(file, b"v1", 9, wait_s=0.1)
    assert refused.value.code == "UNAVAILABLE"
    files.write(file, b"v1", 9)


def test_threads_at_once_write_in_the_order_of_tokens(file: Path) -> None:
    files.write(file, b"0", 1)
    faults: list[str] = []
    refused: list[int] = []
    together = threading.Barrier(4)

    def writer(number: int) -> None:
        together.wait(DEADLINE_S)
        for token in range(2 + number, 200, 4):
            try:
                with files.holding(file, token) as own:
                    before = int(Path(own).read_text())
                    if before > token:
                        faults.append(f"{token} after {before}")
                    Path(own).write_text(str(token))
            except StaleToken:
                refused.append(token)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert faults == []
    assert refused, "they met"
    assert file.read_text() == "199"
    assert files.highest(file) == 199


PROCESS = """
import os, signal, sys
from keylane.guards import StaleToken, files
path, mode = sys.argv[1:3]
if mode == "count":
    print("ready", flush=True)
    sys.stdin.readline()
    passed = refused = 0
    for token in range(int(sys.argv[3]), 400, 2):
        try:
            files.write(path, b"%d" % token, token)
            passed += 1
        except StaleToken:
            refused += 1
    print(passed, refused)
else:
    replace = os.replace
    def held_up(new, old):
        if old == path:
            print("about to rename", flush=True)
            sys.stdin.readline()
        replace(new, old)
    os.replace = held_up
    files.write(path, b"by the slow one", int(sys.argv[3]))
    print("written", flush=True)
"""


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROCESS, *map(str, arguments)]
    with subprocess.Popen(command, **PIPED) as started:  # type: ignore[call-overload]
        try:
            yield started
        finally:
            started.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_at_once_leave_the_highest(file: Path) -> None:
    with process(file, "count", 1) as one, process(file, "count", 2) as two:
        for each in (one, two):
            assert said(each) == "ready"
        for each in (one, two):
            go_on(each)
        counts = [tuple(map(int, said(each).split())) for each in (one, two)]
    assert sum(passed + refused for passed, refused in counts) == 399
    assert sum(refused for _, refused in counts) > 0, "they met"
    assert file.read_bytes() == b"399"
    assert files.highest(file) == 399


def test_a_writer_that_is_stopped_in_the_middle_keeps_others_out_and_is_not_overtaken(file: Path) -> None:
    """Compared, but not renamed yet: were it let past here, its rename would come after the higher one's."""
    files.write(file, b"v1", 1)
    with process(file, "slow", 5) as slow:
        assert said(slow) == "about to rename"
        slow.send_signal(signal.SIGSTOP)
        with pytest.raises(Busy):
            files.write(file, b"v2", 9, wait_s=0.2)
        slow.send_signal(signal.SIGCONT)
        go_on(slow)
        assert said(slow) == "written"
        files.write(file, b"v2", 9)
    assert file.read_bytes() == b"v2"


def test_a_writer_that_is_killed_in_the_middle_keeps_nobody_out(file: Path) -> None:
    files.write(file, b"v1", 1)
    with process(file, "slow", 5) as slow:
        assert said(slow) == "about to rename"
        slow.kill()
        slow.wait()
    assert ".image.json.keylane-new" in beside(file)
    assert file.read_bytes() == b"v1"
    with pytest.raises(StaleToken):
        files.write(file, b"late", 4)
    files.write(file, b"v2", 5)
    assert file.read_bytes() == b"v2"
    assert ".image.json.keylane-new" not in beside(file)


def test_a_lock_that_is_a_link_is_not_followed(file: Path) -> None:
    elsewhere = file.parent / "elsewhere"
    (file.parent / ".image.json.keylane-lock").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"):
        files.write(file, b"v1", 1)
    assert not elsewhere.exists()


def test_the_lock_is_one_that_other_programs_can_take(file: Path) -> None:
    """`flock .FILE.keylane-lock command` in a shell keeps guards out."""
    with (file.parent / ".image.json.keylane-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            files.write(file, b"v1", 1, wait_s=0.1)
