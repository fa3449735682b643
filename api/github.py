"""Which resource a GitHub webhook delivery is about: a parsed delivery in, a key or the reason for none out.

Keys follow GitHub's REST API, under the repository where there is one, so that what an agent reads in a URL
is what it asks for. The resource is the narrowest thing that changes: a comment is on its issue, a job is
itself. A ref is one resource whether it was pushed, created or deleted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

Body = Mapping[str, object]
Choice = Callable[[Body], str]

REPOSITORY = "{repository.full_name:path}"
ORGANIZATION = "orgs/{organization.login:login}"
TEAM = ORGANIZATION + "/teams/{team.slug|team.id}"
INSTALLATION = "app/installations/{installation.id}"
SPONSOR = "sponsors/{sponsorship.sponsorable.login:login}"
PULL = REPOSITORY + "/pulls/{pull_request.number}"
DISCUSSION = REPOSITORY + "/discussions/{discussion.number}"
DEPLOYMENT = REPOSITORY + "/deployments/{deployment.id}"

# What a path segment holds unescaped (RFC 3986 3.3), beyond letters and digits.
PLAIN = "!$&'()*+,;=:@"
FIELD = re.compile(r"\{([^:}]+)(?::(path|login))?\}")


class NoResource(Exception):
    """The delivery names no resource; the message says why, for people."""


def issue_or_pull(body: Body) -> str:
    """GitHub sends comments on a pull request as comments on an issue of the same number."""
    kind = "pulls" if value_at(body, "issue.pull_request") is not None else "issues"
    return f"{REPOSITORY}/{kind}/{{issue.number}}"


def created_ref(body: Body) -> str:
    """`create` and `delete` send the short name of a ref, `push` the full one."""
    kind = "tags" if value_at(body, "ref_type") == "tag" else "heads"
    return f"{REPOSITORY}/git/refs/{kind}/{{ref:path}}"


def organization_or_member(body: Body) -> str:
    if value_at(body, "membership") is None and value_at(body, "invitation") is None:
        return ORGANIZATION
    return ORGANIZATION + "/memberships/{membership.user.login|invitation.login:login}"


PLACES: Mapping[str, str | Choice] = {
    "branch_protection_rule": REPOSITORY + "/branch-protection-rules/{rule.id}",
    "check_run": REPOSITORY + "/check-runs/{check_run.id}",
    "check_suite": REPOSITORY + "/check-suites/{check_suite.id}",
    "code_scanning_alert": REPOSITORY + "/code-scanning/alerts/{alert.number}",
    "commit_comment": REPOSITORY + "/commits/{comment.commit_id}",
    "create": created_ref,
    "delete": created_ref,
    "dependabot_alert": REPOSITORY + "/dependabot/alerts/{alert.number}",
    "deploy_key": REPOSITORY + "/keys/{key.id}",
    "deployment": DEPLOYMENT,
    "deployment_status": DEPLOYMENT,
    "discussion": DISCUSSION,
    "discussion_comment": DISCUSSION,
    "fork": REPOSITORY,
    "gollum": REPOSITORY + "/wiki",
    "installation": INSTALLATION,
    "installation_repositories": INSTALLATION,
    "issue_comment": issue_or_pull,
    "issues": issue_or_pull,
    "label": REPOSITORY + "/labels/{label.name}",
    "marketplace_purchase": "marketplace_listing/accounts/{marketplace_purchase.account.id}",
    "member": REPOSITORY + "/collaborators/{member.login:login}",
    "membership": TEAM + "/memberships/{member.login:login}",
    "merge_group": REPOSITORY + "/git/{merge_group.head_ref:path}",
    "meta": REPOSITORY + "/hooks/{hook_id}",
    "milestone": REPOSITORY + "/milestones/{milestone.number}",
    "org_block": ORGANIZATION + "/blocks/{blocked_user.login:login}",
    "organization": organization_or_member,
    "package": REPOSITORY + "/packages/{package.package_type}/{package.name}",
    "page_build": REPOSITORY + "/pages",
    "ping": REPOSITORY,
    "project": REPOSITORY + "/projects/{project.number}",
    "project_card": REPOSITORY + "/projects/columns/cards/{project_card.id}",
    "project_column": REPOSITORY + "/projects/columns/{project_column.id}",
    "projects_v2_item": ORGANIZATION + "/projectsV2/items/{projects_v2_item.id}",
    "pull_request": PULL,
    "pull_request_review": PULL,
    "pull_request_review_comment": PULL,
    "pull_request_review_thread": PULL,
    "push": REPOSITORY + "/git/{ref:path}",
    "release": REPOSITORY + "/releases/{release.id}",
    "repository": REPOSITORY,
    "repository_dispatch": REPOSITORY,
    "repository_import": REPOSITORY + "/import",
    "repository_vulnerability_alert": REPOSITORY + "/vulnerability-alerts/{alert.number|alert.id}",
    "sponsorship": SPONSOR + "/sponsorships/{sponsorship.sponsor.login:login}",
    "star": REPOSITORY,
    "status": REPOSITORY + "/commits/{sha}",
    "team": TEAM,
    "team_add": TEAM,
    "watch": REPOSITORY,
    "workflow_dispatch": REPOSITORY + "/actions/workflows/{workflow}",
    "workflow_job": REPOSITORY + "/actions/jobs/{workflow_job.id}",
    "workflow_run": REPOSITORY + "/actions/runs/{workflow_run.id}",
}
"""By event. `{a.b}` is the value there, `|` an alternative; `:path` keeps slashes, `:login` lowers case."""

NEWS = {"security_advisory": "an advisory is published for everybody and names no repository"}
"""Known events that name nothing on which somebody could act."""


def resource_of(event: str, body: Body) -> str:
    """The `github://` URI of what the delivery is about, not yet canonical. Raises NoResource."""
    if event in NEWS:
        raise NoResource(NEWS[event])
    place = PLACES.get(event)
    if place is None:
        raise NoResource(f"the event {event} is not known here")
    template = place if isinstance(place, str) else place(body)
    return "github://" + FIELD.sub(lambda field: _filled(field[1], field[2], body), template)


def value_at(body: object, path: str) -> object:
    """The value at a dotted path; None where there is none."""
    for name in path.split("."):
        body = body.get(name) if isinstance(body, Mapping) else None
    return body


def _filled(paths: str, kind: str | None, body: Body) -> str:
    for path in paths.split("|"):
        value = value_at(body, path)
        if isinstance(value, int | str) and not isinstance(value, bool) and value != "":
            break
    else:
        raise NoResource(f"the delivery has no {paths.replace('|', ' or ')}")
    text = str(value)
    if any(segment in ("", ".", "..") for segment in text.split("/")):
        # These would name another resource, further up; no escape is safe from normalisation.
        raise NoResource(f"{path} cannot be part of a key")
    return quote(text.lower() if kind == "login" else text, safe=PLAIN + "/" if kind == "path" else PLAIN)
