"""Credentials on disk: nobody else reads them, they are whole whatever happens, and names in them reach no path."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli.keeping import KEY, URL, credential, everything_in, script
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from keylane import credentials as module
from keylane.credentials import Credentials, Kept, state_folder
from keylane.errors import ConfigError, LockHeld, Unavailable, error_body
from keylane.private_files import create_private, is_locked, locked_private, read_private, replace_private

PARALLEL = 8
DEADLINE_S = 30


@pytest.fixture
def kept(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path, URL)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"KEYLANE_STATE_DIR": "/a/b", "XDG_STATE_HOME": "/x"}, "/a/b"),
        ({"XDG_STATE_HOME": "/x"}, "/x/keylane"),
        ({"XDG_STATE_HOME": "relative"}, str(Path.home() / ".local/state/keylane")),
        ({}, str(Path.home() / ".local/state/keylane")),
    ],
)
def test_where_it_lies(environ: dict[str, str], folder: str) -> None:
    assert str(state_folder(environ)) == folder


@pytest.mark.requirement("S2.3")
def test_what_is_kept_is_found_again_and_nobody_else_may_read_it(kept: Credentials, tmp_path: Path) -> None:
    before = os.umask(0)  # what is made has its mode whatever that is
    try:
        session = kept.session("agent")
        kept.keep(credential(session))
        kept.temporary(session)
    finally:
        os.umask(before)
    assert kept.session("agent") == session and kept.known("agent") == session
    assert kept.of_key(KEY) == [Kept(session=session, credential=credential(session))]
    assert kept.of_key("deploy://other") == []
    modes = {path: path.stat().st_mode & 0o777 for path in everything_in(tmp_path / "sessions")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) >= 5


@pytest.mark.requirement("S2.3")
def test_sessions_are_apart_and_go_with_all_that_is_theirs(kept: Credentials, tmp_path: Path) -> None:
    one, other = kept.session("one"), kept.session("other")
    folders = kept.temporary(one), kept.temporary(other)
    assert folders[0] != folders[1]
    (folders[0] / "deep").mkdir()
    (folders[0] / "deep" / "file").write_text("x")
    kept.keep(credential(one))
    kept.forget(one)
    assert not folders[0].exists() and folders[1].exists()
    assert kept.known("one") is None and kept.of_key(KEY) == []
    assert kept.session("one").secret != one.secret, "begun anew it has another secret"
    assert [path.name for path in (tmp_path / "sessions").iterdir() if path.name.startswith(".")] == []


def test_another_journal_has_other_sessions(kept: Credentials, tmp_path: Path) -> None:
    session = kept.session("agent")
    kept.keep(credential(session))
    elsewhere = Credentials(tmp_path, "sqlite:///tmp/there.db")
    assert elsewhere.of_key(KEY) == [] and elsewhere.session("agent").secret != session.secret
    kafka = Credentials(tmp_path, "kafka://b:1,a:1?tls=true&prefix=p.&user=u").session("agent")
    assert Credentials(tmp_path, "kafka://a:1,b:1?prefix=p.").session("agent") == kafka
    assert Credentials(tmp_path, "kafka://a:1,b:1").session("agent") != kafka


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_name_reaches_a_path(id: str, key: str) -> None:
    folder = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"keylane-names-{os.getpid()}"
    kept = Credentials(folder, URL)
    try:
        session = kept.session(id)
        kept.keep(credential(session, key))
        assert kept.of_key(key)[0].session.id == id
        names = [path.relative_to(folder).as_posix() for path in everything_in(folder)]
        assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789./-") and ".." not in name for name in names)
    finally:
        kept.forget(kept.session(id))


@pytest.mark.parametrize("id", ["../../x", "/etc/passwd", ".", "..", "a/b", "x" * 5_000, "\x00", "ü\n"])
def test_hostile_names_are_names(kept: Credentials, tmp_path: Path, id: str) -> None:
    session = kept.session(id)
    kept.keep(credential(session, id))
    assert [each.session for each in kept.of_key(id)] == [session]
    assert {path.parent for path in (tmp_path / "sessions").iterdir()} == {tmp_path / "sessions"}
    assert list(tmp_path.iterdir()) == [tmp_path / "sessions"]


def test_eight_processes_that_begin_a_session_at_once_have_one_secret(tmp_path: Path) -> None:
    for round in range(5):
        text = f"sys.stdin.readline()\nprint(kept.session('agent-{round}').secret)"
        children = [script(text, tmp_path) for _ in range(PARALLEL)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
        said = [child.communicate(timeout=DEADLINE_S) for child in children]
        assert {child.returncode for child in children} == {0}, said
        secrets = {out for out, _ in said}
        assert len(secrets) == 1 and len(secrets.pop().strip()) >= 43


def test_eight_that_acquire_and_forget_at_once_end_with_whole_files(tmp_path: Path) -> None:
    """A folder is removed while others write into it: none fails, none finds half a file."""
    text = """
from keylane.locks import Credential
for number in range(40):
    session = kept.session("agent")
    kept.keep(Credential(resource="deploy://api", run="r", token=number + 1, session="agent", secret=session.secret,
              hold="", holder="", acquired="", ttl_ms=1))
    for each in kept.of_key("deploy://api"):
        assert each.credential is None or each.credential.session == "agent"
    kept.forget(session)
"""
    children = [script(text, tmp_path) for _ in range(PARALLEL)]
    for child in children:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err.decode()
    assert list((tmp_path / "sessions").iterdir()) == []


def test_what_is_written_into_a_folder_while_it_is_removed_goes_too(
    kept: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of another process that has begun to write by the folder's name, and is not found by who removes it."""
    remove, late = shutil.rmtree, [b"{}"]

    def removed_too_early(path: Path, *, ignore_errors: bool) -> None:
        remove(path, ignore_errors=ignore_errors)
        if late:
            path.mkdir()
            (path / ".new-1").write_bytes(late.pop())

    monkeypatch.setattr(shutil, "rmtree", removed_too_early)
    kept.forget(kept.session(None))
    assert not late and list((tmp_path / "sessions").iterdir()) == []


@pytest.mark.requirement("S2.3")
def test_a_file_is_whole_after_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Its writer is killed again and again: what is there can be read, and is one that was written whole."""
    text = """
from keylane.locks import Credential
session = kept.session("agent")
print("begun", flush=True)
token = 0
while True:
    for name in "abc":
        token += 1
        kept.keep(Credential(resource="deploy://" + name, run=str(token) * 500, token=token, session="agent",
                  secret=session.secret, hold="", holder="", acquired="", ttl_ms=1))
"""
    seen = 0
    for round in range(12):
        child = script(text, tmp_path)
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        time.sleep(0.002 + 0.011 * round % 0.05)  # not a wait for anything: the moment is to differ
        child.send_signal(signal.SIGKILL)
        child.communicate()
        kept = Credentials(tmp_path, URL)
        assert kept.known("agent") is not None
        for name in "abc":
            for each in kept.of_key(f"deploy://{name}"):
                assert each.credential is not None
                assert each.credential.run == str(each.credential.token) * 500
                seen += 1
    assert seen > 12
    kept.forget(kept.session("agent"))
    assert list((tmp_path / "sessions").iterdir()) == []


def test_a_write_that_fails_leaves_what_was_and_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "private" / "file"
    replace_private(path, b"first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keylane.private_files.os.fsync", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*KEYLANE_STATE_DIR"):
        replace_private(path, b"second")
    with pytest.raises(ConfigError, match="No space left"):
        create_private(tmp_path / "private" / "another", b"x")
    assert [each.name for each in path.parent.iterdir()] == ["file"] and read_private(path) == b"first"


def test_of_many_that_create_it_one_does(tmp_path: Path) -> None:
    path = tmp_path / "private" / "file"
    with ThreadPoolExecutor(PARALLEL) as pool:
        made = list(pool.map(lambda n: (n, create_private(path, b"%d" % n)), range(PARALLEL)))
    (winner,) = [number for number, created in made if created]
    assert read_private(path) == b"%d" % winner


# -- what is left where a process dies ------------------------------------------------------------------------------


def test_who_asks_is_seen_until_it_dies_and_then_what_it_asked_for(tmp_path: Path) -> None:
    text = f"""
session = kept.session(None)
with kept.asking(session, {KEY!r}):
    print(session.id, flush=True)
    sys.stdin.readline()
"""
    child = script(text, tmp_path)
    assert child.stdout is not None
    id = child.stdout.readline().decode().strip()
    kept = Credentials(tmp_path, URL)
    (found,) = kept.of_key(KEY)
    assert (found.session.id, found.credential, found.asking) == (id, None, True)
    kept.drop(replace(found, session=replace(found.session, named=True)), KEY)
    assert kept.of_key(KEY)[0].asking, "what a process that lives has said stays"
    child.kill()
    child.communicate()
    (found,) = kept.of_key(KEY)
    assert (found.session.id, found.credential, found.asking) == (id, None, False)
    kept.drop(found, KEY)
    assert kept.of_key(KEY) == [] and kept.known(id) is None


def test_a_refusal_leaves_nothing_of_a_session_of_its_own_and_doubt_leaves_all(kept: Credentials) -> None:
    own, named = kept.session(None), kept.session("agent")
    refused, doubt = LockHeld(error_body("LOCK_HELD", "no")), Unavailable("?")
    for session in (own, named):
        with pytest.raises(LockHeld), kept.asking(session, KEY):
            raise refused
        assert kept.of_session(session, KEY) is None
    assert kept.known(own.id) is None and kept.known("agent") == named
    own = kept.session(None)
    for session in (own, named):
        with pytest.raises(Unavailable), kept.asking(session, KEY):
            raise doubt
        assert kept.of_session(session, KEY) == Kept(session=session, credential=None)
    with kept.asking(named, KEY):
        kept.keep(credential(named))
    kept.drop(Kept(session=named, credential=None), KEY)
    assert kept.of_session(named, KEY) is None and kept.known("agent") == named


def test_of_two_credentials_of_a_key_the_one_with_the_higher_token_counts(kept: Credentials) -> None:
    session = kept.session("agent")
    for token in (5, 12, 9):  # whoever was slow to write has an older one
        kept.keep(credential(session, token=token))
    (found,) = kept.of_key(KEY)
    assert found.credential is not None and found.credential.token == 12
    kept.drop(replace(found, credential=credential(session, token=9)), KEY)
    (found,) = kept.of_key(KEY)
    assert found.credential is not None and found.credential.token == 12, "that of another time is not touched"


def test_a_lock_outlives_the_end_of_its_session_in_another_process(kept: Credentials) -> None:
    """The session was ended, and begun anew, while it was acquired: the credential renews it all the same."""
    before = kept.session("agent")
    kept.forget(before)
    kept.keep(credential(before))
    (found,) = kept.of_key(KEY)
    assert found.session.secret == before.secret
    after = kept.session("agent")
    (found,) = kept.of_key(KEY)
    assert found.session.secret == before.secret != after.secret


def test_what_is_old_and_in_use_stays(kept: Credentials, tmp_path: Path) -> None:
    old = kept.session("old")
    (folder,) = (tmp_path / "sessions").iterdir()
    week_ago_s = time.time() - module.FORGET_AFTER_S - 60
    with kept.asking(old, KEY):
        os.utime(folder, (week_ago_s, week_ago_s))
        kept.session("new")
        assert kept.known("old") == old
    os.utime(folder, (week_ago_s, week_ago_s))
    kept.session("another")
    assert kept.known("old") is None


def test_what_nobody_has_touched_for_a_week_goes(kept: Credentials, tmp_path: Path) -> None:
    kept.session("old")
    (old,) = (tmp_path / "sessions").iterdir()
    (tmp_path / "sessions" / ".removed-x").mkdir()
    week_ago_s = time.time() - module.FORGET_AFTER_S - 60
    os.utime(old, (week_ago_s, week_ago_s))
    kept.session("new")
    assert kept.known("old") is None and kept.known("new") is not None
    assert len(list((tmp_path / "sessions").iterdir())) == 1
    (new,) = (tmp_path / "sessions").iterdir()
    os.utime(new, (week_ago_s, week_ago_s))
    in_use = kept.known("new")
    assert in_use is not None
    kept.touch(in_use)
    kept.session("another")
    assert kept.known("new") == in_use


def test_a_file_is_locked_as_long_as_its_block(tmp_path: Path) -> None:
    path = tmp_path / "private" / "mark"
    with locked_private(path):
        assert is_locked(path) and is_locked(path)
    assert not path.exists() and not is_locked(path)
    with pytest.raises(ZeroDivisionError), locked_private(path):
        raise ZeroDivisionError
    assert path.exists() and not is_locked(path)


def test_nothing_that_is_printed_has_a_secret(kept: Credentials) -> None:
    session = kept.session("agent")
    said = [
        repr(each) for each in (session, credential(session), Kept(session=session, credential=credential(session)))
    ]
    assert not [text for text in said if session.secret in text]
    assert json.dumps(said)
