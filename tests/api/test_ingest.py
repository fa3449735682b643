"""GitHub deliveries become work requests: the whole of the real file, and what such a file must not do to us.

`github_deliveries.txt` says for each event and action of the file which resource and action comes out. REWRITE=1
writes it anew, to be read as a diff.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylane.github import NEWS, PLACES
from keylane.ingest import PAYLOAD_BYTES_MAX, Unmapped, requests_from_github
from keylane.schemas.keys import canonical_key
from keylane.schemas.requests import WorkRequest

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
    found = requests_from_github(line(event, body))
    assert isinstance(found, WorkRequest), found
    return found


def unmapped(event: str, body: object) -> Unmapped:
    found = requests_from_github(line(event, body))
    assert isinstance(found, Unmapped), found
    return found


def described(text: bytes) -> str:
    """One line of the table."""
    found = requests_from_github(text)
    if isinstance(found, Unmapped):
        return f"{found.event} -> none: {found.reason}"
    return f"{found.action} -> {found.resource}"


def test_every_real_delivery_is_mapped_or_reported() -> None:
    found = [requests_from_github(text) for text in lines()]
    assert len(found) == 200
    assert Counter(type(one).__name__ for one in found) == {"WorkRequest": 198, "Unmapped": 2}


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
        found = requests_from_github(text)
        if isinstance(found, WorkRequest):
            delivery = json.loads(text)
            assert canonical_key(found.resource) == found.resource
            assert msgspec.json.decode(found.payload) == delivery["payload"]
            assert found.actor == delivery["payload"]["sender"]["login"]
            assert found.action.split(".")[0] == delivery["event"]


def test_taken_in_again_a_delivery_asks_under_the_same_id_and_a_copy_under_another() -> None:
    ids = {one.id for text in lines() if isinstance(one := requests_from_github(text), WorkRequest)}
    assert len(ids) == len({text for text in lines()}) - 2
    again = {one.id for text in lines() if isinstance(one := requests_from_github(text.strip()), WorkRequest)}
    assert again == ids
    copies = {one.id for text in lines() if isinstance(one := requests_from_github(text, salt="copy"), WorkRequest)}
    assert len(copies) == len(ids) and not copies & ids


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
    found = requests_from_github(line("label", REPOSITORY | {"label": {"name": name}}))
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
    found = requests_from_github(text)
    assert isinstance(found, Unmapped) and found.reason


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@given(event=st.sampled_from(sorted(PLACES)), data=st.data())
def test_a_body_of_any_shape_is_mapped_or_reported(event: str, data: st.DataObject) -> None:
    inner = st.dictionaries(
        st.sampled_from(["full_name", "number", "id", "login", "name", "user", "account"]), anything, max_size=4
    )
    keys = ["repository", "organization", "issue", "pull_request", "team", "member", "label", "ref", "action"]
    body = data.draw(st.dictionaries(st.sampled_from(keys), inner | anything, max_size=6))
    found = requests_from_github(line(event, body))
    if isinstance(found, WorkRequest):
        assert canonical_key(found.resource) == found.resource
    else:
        assert found.reason
