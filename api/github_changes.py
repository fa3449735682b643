"""What a GitHub delivery says about a change: who made it, and which version of the resource came of it.

A version is what GitHub's REST API shows of the resource that `github` names: the commit of a ref, else the time of
its last update. A delivery that has none says only that something has changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from keylane.github import Body, value_at

UPDATED: Mapping[str, str] = {
    "branch_protection_rule": "rule",
    "check_suite": "check_suite",
    "code_scanning_alert": "alert",
    "dependabot_alert": "alert",
    "deployment": "deployment",
    "discussion": "discussion",
    "discussion_comment": "discussion",
    "installation": "installation",
    "installation_repositories": "installation",
    "issue_comment": "issue",
    "issues": "issue",
    "meta": "hook",
    "milestone": "milestone",
    "package": "package",
    "page_build": "build",
    "project": "project",
    "project_card": "project_card",
    "project_column": "project_column",
    "projects_v2_item": "projects_v2_item",
    "pull_request": "pull_request",
    "pull_request_review": "pull_request",
    "pull_request_review_comment": "pull_request",
    "pull_request_review_thread": "pull_request",
    "repository": "repository",
    "workflow_run": "workflow_run",
}
"""By event: the part of the body that is the resource, whose `updated_at` is its version."""
REFS = ("create", "delete", "push")
PUSHED = "repository.pushed_at"
SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class Version(NamedTuple):
    """`name`: empty where the delivery has none. `sequence`: grows with each change of one resource."""

    name: str
    at: str | None
    sequence: int | None


def person(body: Body) -> str | None:
    """The login of the person who caused the delivery. None: a program did, or nobody is named."""
    login = value_at(body, "sender.login")
    if not isinstance(login, str) or not login:
        return None
    return None if value_at(body, "sender.type") == "Bot" or login.endswith("[bot]") else login


def version_of(event: str, body: Body) -> Version:
    """The version that the change has made, when, and where that stands among the changes of the resource."""
    if event in REFS:
        return _ref_version(event, body)
    found = _time(value_at(body, f"{UPDATED[event]}.updated_at")) if event in UPDATED else None
    if found is None:
        return Version("", None, None)
    text = found.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Version(text, text, _ms(found))


def _ref_version(event: str, body: Body) -> Version:
    """A push that makes or removes a ref is told twice, for the same second: what names the commit comes after."""
    pushed, after = _time(value_at(body, PUSHED)), value_at(body, "after")
    is_commit = event == "push" and isinstance(after, str) and SHA.fullmatch(after) is not None and set(after) != {"0"}
    name = after if is_commit and isinstance(after, str) else ""
    if pushed is None:
        return Version(name, None, None)
    return Version(name, pushed.strftime("%Y-%m-%dT%H:%M:%SZ"), _ms(pushed) + (event == "push"))


def _time(value: object) -> datetime | None:
    """A time as deliveries have it: RFC 3339, or seconds since the epoch."""
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if found is None else (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1_000)
