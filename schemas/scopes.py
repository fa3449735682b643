"""Scope rules: which owning key a requested key belongs to, so that what hangs together is ordered together.

A rule is two patterns, as in `k8s://{c}/pods/{ns}/{app}/{pod}` owned by `k8s://{c}/deployments/{ns}/{app}`. A `{name}`
stands for one whole segment: what lies between slashes, in ARNs also between colons. Every process must have the same
rules, so they are pinned in the metadata; nothing here knows of partitions or policies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from keylane.schemas.keys import BadKey, canonical_key
from keylane.schemas.metadata import ScopeRule

VARIABLE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
SAMPLE = "x"
OWNERS_CACHED = 16_384


class BadScope(ValueError):
    """The rules cannot be used. The message begins with the place of the wrong one, as in `scopes[0].owner`."""


class Scopes:
    """The rules, checked: at most one of them matches a key, and no owning key is owned again. Raises `BadScope`."""

    def __init__(self, rules: Sequence[ScopeRule]) -> None:
        matches = [_segments(f"scopes[{place}].match", rule.match) for place, rule in enumerate(rules)]
        owners = [_segments(f"scopes[{place}].owner", rule.owner) for place, rule in enumerate(rules)]
        for place, (match, owner) in enumerate(zip(matches, owners, strict=True)):
            unknown = sorted(set(_variables(owner)) - set(_variables(match)))
            if unknown:
                raise BadScope(f"scopes[{place}].owner: {{{unknown[0]}}} is not in match")
            for other in range(place):
                if _overlap(match, matches[other]):
                    raise BadScope(f"scopes[{place}].match: a key can match scopes[{other}] as well")
            for other, taken in enumerate(matches):
                if _overlap(owner, taken):
                    raise BadScope(f"scopes[{place}].owner: scopes[{other}] would give its owner an owner again")
        self._rules = [(_expression(rule.match), rule.owner) for rule in rules]
        self._owned = lru_cache(maxsize=OWNERS_CACHED)(self._owner_of)

    def owner_of(self, key: str) -> str:
        """The owning key of a canonical key: its own where no rule matches. Raises `BadKey` where that is none."""
        return self._owned(key) if self._rules else key

    def _owner_of(self, key: str) -> str:
        for expression, owner in self._rules:
            found = expression.fullmatch(key)
            if found is not None:
                return _filled(owner, found.groupdict())
        return key


def _filled(owner: str, values: Mapping[str, str]) -> str:
    try:
        return canonical_key(VARIABLE.sub(lambda name: values[name[1]], owner))
    except BadKey as error:
        raise BadKey(f"its owning key: {error}") from None


def _segments(place: str, pattern: str) -> list[str]:
    """The pattern cut at its delimiters, which are kept. Raises `BadScope`."""
    cut = r"([/:])" if _is_arn(pattern) else r"(/)"
    segments = re.split(cut, pattern)
    for segment in segments:
        if ("{" in segment or "}" in segment) and VARIABLE.fullmatch(segment) is None:
            raise BadScope(f"{place}: {segment!r}: a variable such as {{name}} is a whole segment")
    names = _variables(segments)
    if len(names) != len(set(names)):
        raise BadScope(f"{place}: a variable stands in it twice")
    filled = VARIABLE.sub(SAMPLE, pattern)
    try:
        canonical = canonical_key(filled)
    except BadKey as error:
        raise BadScope(f"{place}: {error}") from None
    if canonical != filled:
        raise BadScope(f"{place}: no key is written so; with {SAMPLE} for each variable it is {canonical!r}")
    return segments


def _is_arn(pattern: str) -> bool:
    return pattern.startswith("arn:")


def _variables(segments: list[str]) -> list[str]:
    return [found[1] for segment in segments if (found := VARIABLE.fullmatch(segment)) is not None]


def _overlap(one: list[str], other: list[str]) -> bool:
    """Whether a key can match both."""
    if len(one) != len(other):
        return False
    return all(a == b or "{" in a or "{" in b for a, b in zip(one, other, strict=True))


def _expression(pattern: str) -> re.Pattern[str]:
    inside = "[^/:?]+" if _is_arn(pattern) else "[^/?]+"
    pieces = VARIABLE.split(pattern)
    pieces[::2] = [re.escape(piece) for piece in pieces[::2]]
    pieces[1::2] = [f"(?P<{name}>{inside})" for name in pieces[1::2]]
    return re.compile("".join(pieces))
