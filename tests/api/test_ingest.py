"""GitHub deliveries become changes and work requests: the whole real file, and what such a file must not do to us.

`github_deliveries.txt` says for each delivery of the file what comes out: for a person's, which resource was changed,
by whom, and to which version; for a program's, which resource and action is asked for. REWRITE=1 writes it anew, to be
read as a diff.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylane.github import NEWS, PLACES
from keylane.github_changes import REFS, UPDATED
from keylane.ingest import PAYLOAD_BYTES_MAX, Unmapped, command_from_github
from keylane.schemas.keys import canonical_key
from keylane.schemas.requests import ResourceChange, WorkRequest

SHARED = Path(os.environ.get("KEYLANE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
REAL = SHARED / "data" / "github-webhooks.jsonl"
TABLE = Path(__file__).with_name("github_deliveries.txt")
REPOSITORY = {"repository": {"full_name": "Acme/App"}}


def lines() -> list[bytes]:
    assert REAL.exists(), f"the real deliveries are not in {REAL}: set KEYLANE_SHARED to the folder that has data/"
    return REAL.read_bytes().splitlines(keepends=True)


def line(event: str, body: object) -> bytes:
    return json.dumps({"event": event, "payload": body}).encode()


def mapped(event: str, body: object) -> WorkRequest:
    found = command_from_github(line(event, body))
    assert isinstance(found, WorkRequest), found
    return found


def change(event: str, body: dict[str, object], login: str = "ann", **sender: object) -> ResourceChange:
    """What a person's delivery comes to."""
    found = command_from_github(line(event, REPOSITORY | body | {"sender": {"login": login, "type": "User"} | sender}))
    assert isinstance(found, ResourceChange), found
    return found


def unmapped(event: str, body: object) -> Unmapped:
    found = command_from_github(line(event, body))
    assert isinstance(found, Unmapped), found
    return found


def described(text: bytes) -> str:
    """One line of the table."""
    found = command_from_github(text)
    if isinstance(found, Unmapped):
        return f"{found.event} -> none: {found.reason}"
    if isinstance(found, ResourceChange):
        return f"{found.resource} changed: {found.what} by {found.by}, {found.version or 'version unknown'}"
    return f"{found.resource} asked for: {found.action} by {found.actor}"


@pytest.mark.requirement("S1.7")
def test_every_real_delivery_is_a_change_or_a_request_or_reported() -> None:
    found = [command_from_github(text) for text in lines()]
    assert Counter(type(one).__name__ for one in found) == {"ResourceChange": 196, "WorkRequest": 2, "Unmapped": 2}
    asked = [command_from_github(text, as_requests=True) for text in lines()]
    assert Counter(type(one).__name__ for one in asked) == {"WorkRequest": 198, "Unmapped": 2}


def test_a_real_delivery_is_a_request_exactly_where_its_sender_is_a_bot() -> None:
    for text in lines():
        found, sender = command_from_github(text), json.loads(text)["payload"].get("sender", {})
        if not isinstance(found, Unmapped):
            assert isinstance(found, WorkRequest) == (sender["type"] == "Bot")


def test_the_real_deliveries_map_to_the_resources_of_the_table() -> None:
    table = "".join(f"{row}\n" for row in sorted({described(text) for text in lines()}))
    if os.environ.get("REWRITE"):
        TABLE.write_text(table)
    assert table == TABLE.read_text()


def test_the_real_file_has_every_event_that_is_known() -> None:
    """So that the table shows each mapping at work."""
    assert {json.loads(text)["event"] for text in lines()} == set(PLACES) | set(NEWS)


def test_requests_made_of_real_deliveries_are_whole() -> None:
    for text in lines():
        found = command_from_github(text, as_requests=True)
        if isinstance(found, WorkRequest):
            delivery = json.loads(text)
            assert canonical_key(found.resource) == found.resource
            assert msgspec.json.decode(found.payload) == delivery["payload"]
            assert found.actor == delivery["payload"]["sender"]["login"]
            assert found.action.split(".")[0] == delivery["event"]


def test_changes_made_of_real_deliveries_are_whole() -> None:
    for text in lines():
        found = command_from_github(text)
        if isinstance(found, ResourceChange):
            delivery = json.loads(text)
            assert canonical_key(found.resource) == found.resource
            assert found.by == delivery["payload"]["sender"]["login"]
            assert found.what.split(".")[0] == delivery["event"]
            assert (found.source, found.sequence is None) == ("github", found.at is None)


def test_taken_in_again_a_delivery_has_the_same_id_and_a_copy_another() -> None:
    def ids(**options: Any) -> list[str]:
        found = [command_from_github(text.strip(), **options) for text in lines()]
        return [one.id for one in found if not isinstance(one, Unmapped)]

    told, copies, asked = ids(), ids(salt="copy"), ids(as_requests=True)
    assert len(set(told)) == len(set(lines())) - 2 and told == ids()
    assert len(set(copies)) == len(set(told)) and not set(copies) & set(told)
    assert len(set(told) & set(asked)) == 2, "a change and a request of one delivery are two things"


@pytest.mark.requirement("S1.7")
def test_what_a_person_did_is_a_change_by_them_to_the_version_that_github_shows() -> None:
    found = change("issues", {"action": "closed", "issue": {"number": 42, "updated_at": "2019-05-15T15:20:18Z"}})
    assert (found.resource, found.by, found.what) == ("github://acme/app/issues/42", "ann", "issues.closed")
    assert (found.version, found.at) == ("2019-05-15T15:20:18Z", "2019-05-15T15:20:18Z")
    assert (found.source, found.sequence) == ("github", 1_557_933_618_000)


@pytest.mark.parametrize("sender", [{"type": "Bot"}, {"login": "renovate[bot]"}, {"login": None}, {"login": ""}])
def test_what_a_program_or_nobody_known_did_is_a_request(sender: dict[str, object]) -> None:
    body = REPOSITORY | {"issue": {"number": 42}, "sender": {"login": "renovate", "type": "User"} | sender}
    assert mapped("issues", body).action == "issues"


def test_the_version_of_a_ref_is_its_commit_and_a_push_comes_after_what_is_told_of_it_for_the_same_second() -> None:
    pushed_at = {"repository": {"full_name": "Acme/App", "pushed_at": 1_557_933_657}}
    told_as_text = {"repository": {"full_name": "Acme/App", "pushed_at": "2019-05-15T15:20:57Z"}}
    push = change("push", pushed_at | {"ref": "refs/heads/x", "after": "6" * 40})
    made = change("create", told_as_text | {"ref": "x", "ref_type": "branch"})
    gone = change("push", pushed_at | {"ref": "refs/heads/x", "after": "0" * 40})
    assert (push.version, made.version, gone.version) == ("6" * 40, "", "")
    assert made.sequence == 1_557_933_657_000 and push.sequence == gone.sequence == made.sequence + 1


@pytest.mark.parametrize("updated", [None, True, "yesterday", "", 10**30, ["2019"]])
def test_without_a_version_that_can_be_read_something_has_changed_all_the_same(updated: object) -> None:
    found = change("issues", {"issue": {"number": 42, "updated_at": updated}})
    assert (found.version, found.at, found.sequence) == ("", None, None)


def test_a_version_is_known_of_events_that_are_known() -> None:
    assert set(UPDATED) | set(REFS) <= set(PLACES)


def test_a_comment_is_on_its_issue_or_on_the_pull_request_that_the_issue_is() -> None:
    on_issue = REPOSITORY | {"issue": {"number": 42}}
    on_pull = REPOSITORY | {"issue": {"number": 42, "pull_request": {"url": "https://api.github.com/…"}}}
    assert mapped("issue_comment", on_issue).resource == "github://acme/app/issues/42"
    assert mapped("issue_comment", on_pull).resource == "github://acme/app/pulls/42"
    assert mapped("pull_request", REPOSITORY | {"pull_request": {"number": 42}}).resource == (
        "github://acme/app/pulls/42"
    )


def test_a_ref_is_one_resource_pushed_created_or_deleted() -> None:
    pushed = mapped("push", REPOSITORY | {"ref": "refs/heads/feature/x"}).resource
    created = mapped("create", REPOSITORY | {"ref": "feature/x", "ref_type": "branch"}).resource
    assert pushed == created == "github://acme/app/git/refs/heads/feature/x"
    tag = mapped("delete", REPOSITORY | {"ref": "v1", "ref_type": "tag"}).resource
    assert tag == mapped("push", REPOSITORY | {"ref": "refs/tags/v1"}).resource


@pytest.mark.parametrize("name", ["a/b", "a b", "50%", "#1", "?", "é", "a\tb"])
def test_names_chosen_by_people_stay_one_segment(name: str) -> None:
    found = command_from_github(line("label", REPOSITORY | {"label": {"name": name}}))
    if name == "a\tb":
        assert isinstance(found, Unmapped)
    else:
        assert isinstance(found, WorkRequest)
        assert found.resource.startswith("github://acme/app/labels/") and found.resource.count("/") == 5


@pytest.mark.parametrize("name", [".", "..", ""])
def test_a_name_cannot_reach_another_resource(name: str) -> None:
    assert unmapped("label", REPOSITORY | {"label": {"name": name}}).reason


def test_a_ref_cannot_reach_another_resource() -> None:
    assert unmapped("push", REPOSITORY | {"ref": "refs/../../../issues/1"}).reason


def test_what_names_no_resource_is_reported_with_the_reason() -> None:
    assert unmapped("issues", {"issue": {"number": 1}}).reason == "the delivery has no repository.full_name"
    assert unmapped("issues", REPOSITORY).reason == "the delivery has no issue.number"
    assert unmapped("brand_new", REPOSITORY).reason == "the event brand_new is not known here"


def test_a_body_that_is_too_large_is_left_out_and_said_to_be() -> None:
    body = REPOSITORY | {"issue": {"number": 1}, "text": "x" * PAYLOAD_BYTES_MAX}
    payload = msgspec.json.decode(mapped("issues", body).payload)
    assert payload["left_out"] and payload["bytes"] > PAYLOAD_BYTES_MAX


@given(text=st.binary(max_size=60) | st.text(max_size=20).map(str.encode))
def test_a_line_that_is_no_delivery_is_reported(text: bytes) -> None:
    found = command_from_github(text)
    assert isinstance(found, Unmapped) and found.reason


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@given(event=st.sampled_from(sorted(PLACES)), data=st.data())
def test_a_body_of_any_shape_is_mapped_or_reported(event: str, data: st.DataObject) -> None:
    inner = st.dictionaries(
        st.sampled_from(
            ["full_name", "number", "id", "updated_at", "pushed_at", "type", "login", "name", "user", "account"]
        ),
        anything,
        max_size=4,
    )
    keys = ["sender", "repository", "organization", "issue", "pull_request", "team", "member", "label", "ref", "action"]
    body = data.draw(st.dictionaries(st.sampled_from(keys), inner | anything, max_size=6))
    found = command_from_github(line(event, body))
    if isinstance(found, Unmapped):
        assert found.reason
    else:
        assert canonical_key(found.resource) == found.resource
