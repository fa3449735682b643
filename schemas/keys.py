"""Resource keys: the one spelling of a resource's name, so that equal names meet in one lane. Text to text.

A key is a URI (RFC 3986) or an AWS ARN. Nothing here knows of scope rules, partitions or policies.

The canonical URI is ASCII: what lies outside goes through NFC and UTF-8 percent-encoding (RFC 3987 3.1), so
`é`, `%c3%a9` and `e` with a combining accent are one key, and invisible characters are seen by people.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from yarl import URL

KEY_BYTES_MAX = 512
TEXT_CHARACTERS_MAX = 8 * KEY_BYTES_MAX
"""Longer texts are refused before any work is done on them."""

# RFC 3986 appendix B, with the scheme demanded and its alphabet (3.1) checked.
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
# Canonical at a glance, as most keys are: looking costs a twentieth of the long way.
PLAIN_KEY = re.compile(
    r"(?:(?!arn:|github:)[a-z][a-z0-9+.-]*://|github://(?=[^/]+(?:\Z|/[a-z0-9._~-]+(?:/|\Z))))"
    r"[a-z0-9.-]+(?:/(?!\.)[A-Za-z0-9._~-]+)*"
)
ARN_FIELD = re.compile(r"[a-z0-9-]*")
AUTHORITY = re.compile(r"(\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,5}))?")
HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-F]{2})+")
ESCAPES = re.compile(r"((?:%[0-9A-Fa-f]{2})+)")
STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
# What a path or a query may hold as it stands (RFC 3986 3.3 and 3.4), and `%` of an escape already made.
NOT_LITERAL = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "ssh": "22"}
CASELESS_FIRST_SEGMENT = {"github"}
"""Schemes whose first path segment, like the host, has no case: github://OWNER/REPO/…"""


class BadKey(ValueError):
    """The text names no resource. Its message is the reason, fit for the person who wrote the text."""


def canonical_key(text: str) -> str:
    """The canonical spelling of the resource that `text` names: at most 512 bytes, equal for equal resources.

    Idempotent. URIs: RFC 3986 6.2.2 and 6.2.3, without trailing slashes; the query keeps its order. User
    names and passwords are refused, since keys are published; fragments are refused, since they name places
    inside a resource, and two of these must not be worked on apart. Raises BadKey with the reason.
    """
    # Not cached: to look into a large cache costs more than this.
    if len(text) <= KEY_BYTES_MAX and PLAIN_KEY.fullmatch(text):
        return text
    return _canonical(text)


@lru_cache(maxsize=16_384)
def _canonical(text: str) -> str:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise BadKey(f"a key is at most {KEY_BYTES_MAX} bytes long")
    key = _normalised(text)
    if len(key.encode()) > KEY_BYTES_MAX:
        raise BadKey(f"a key is at most {KEY_BYTES_MAX} bytes long; this one has {len(key.encode())}")
    return key


def _normalised(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadKey("a key is valid Unicode; this one holds half of a surrogate pair") from None
    _refuse_blank_and_control(text)
    return _arn(unicodedata.normalize("NFC", text)) if text[:4].lower() == "arn:" else _uri(text)


def _refuse_blank_and_control(text: str) -> None:
    for character in text:
        if character.isspace() or unicodedata.category(character) in ("Cc", "Cn", "Cs"):
            raise BadKey(f"a key has no white space or control characters; this one has U+{ord(character):04X}")


def _arn(text: str) -> str:
    """`arn:partition:service:region:account:resource`; the resource alone has case, and stays as it is."""
    fields = text.split(":", 5)
    if len(fields) < 6 or not fields[5]:
        raise BadKey("an ARN is arn:partition:service:region:account:resource")
    prefix = [field.lower() for field in fields[:5]]
    for field in prefix:
        if ARN_FIELD.fullmatch(field) is None:
            raise BadKey("the fields of an ARN before the resource are letters, digits and hyphens")
    if not prefix[1] or not prefix[2]:
        raise BadKey("an ARN names its partition and its service")
    return ":".join([*prefix, fields[5]])


def _uri(text: str) -> str:
    match = URI.fullmatch(text)
    if match is None:
        raise BadKey("a key is a URI such as deploy://api-prod, or an ARN")
    scheme, authority, path, query, fragment = match.groups()
    scheme = scheme.lower()
    if fragment is not None:
        raise BadKey("a key has no fragment: name the resource, not a place in it (write # as %23)")
    host = None if authority is None else _authority(scheme, authority)
    path = _path(_requoted(path), rooted=host is not None)
    if host is None and path.startswith("//"):
        raise BadKey("a path that begins with // would be read as a host")
    if scheme in CASELESS_FIRST_SEGMENT:
        path = _first_segment_lowered(path)
    if not host and not path:
        raise BadKey("the URI names nothing after its scheme")
    begin = f"{scheme}:{path}" if host is None else f"{scheme}://{host}{path}"
    return f"{begin}?{_requoted(query)}" if query else begin


def _authority(scheme: str, authority: str) -> str:
    if "@" in authority:
        raise BadKey("a key has no user or password before its host: keys are published")
    match = AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > 65_535:
        raise BadKey("after // comes a host, or an address of IPv6 in brackets, and perhaps a port number")
    host = _host(match[1])
    port = str(int(match[2])) if match[2] else ""
    if port and not host:
        raise BadKey("a port needs a host before it")
    return host if port in ("", DEFAULT_PORTS.get(scheme)) else f"{host}:{port}"


def _host(host: str) -> str:
    """Lower case; names beyond ASCII by IDNA, addresses of IPv6 in their shortest form (RFC 5952)."""
    if not host:
        return ""
    host = host if host.startswith("[") else _requoted(host, keep_text=True).lower()
    if host.startswith("[") or not host.isascii():
        if "%" in host:
            raise BadKey("an address in brackets has no zone, and an international name no escaped ASCII")
        try:
            host = URL.build(scheme="http", host=host.strip("[]")).host_subcomponent or ""
        except ValueError:
            raise BadKey("the host is no valid name or address") from None
        if host.startswith("["):
            return host
    host = ESCAPES.sub(lambda escapes: escapes[0].upper(), host)
    if HOST.fullmatch(host) is None:
        raise BadKey("the host has characters that no host has; write them percent-encoded")
    return host


def _requoted(part: str, keep_text: bool = False) -> str:
    """Escapes decoded where that changes nothing (RFC 3986 6.2.2.2), else in upper case; the rest escaped.

    `keep_text` leaves characters that need an escape as they are, for a host, which has rules of its own.
    """
    if STRAY_PERCENT.search(part) is not None:
        raise BadKey("a percent sign is followed by two hexadecimal digits (write it as %25)")
    pieces = ESCAPES.split(ESCAPES.sub(_unescaped, part))
    # Escapes, at the odd places, are kept out of it: a combining accent after %3C must not go to its C.
    pieces[::2] = [unicodedata.normalize("NFC", piece) for piece in pieces[::2]]
    decoded = "".join(pieces)
    return decoded if keep_text else NOT_LITERAL.sub(lambda found: _escaped(found[0]), decoded)


def _unescaped(escapes: re.Match[str]) -> str:
    try:
        text = bytes.fromhex(escapes[0].replace("%", "")).decode()
    except UnicodeDecodeError:
        raise BadKey("percent-encoded bytes are UTF-8") from None
    _refuse_blank_and_control(text.replace(" ", ""))
    return "".join(
        character if not character.isascii() or UNRESERVED.match(character) else _escaped(character)
        for character in text
    )


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _path(path: str, *, rooted: bool) -> str:
    """Without dot segments (RFC 3986 5.2.4) and trailing slashes. A path such as `isbn:1` has no segments."""
    if rooted or path.startswith("/"):
        kept: list[str] = []
        for segment in path.split("/")[1:]:
            if segment == ".." and kept:
                kept.pop()
            elif segment not in (".", ".."):
                kept.append(segment)
        path = "".join(f"/{segment}" for segment in kept)
    return path.rstrip("/")


def _first_segment_lowered(path: str) -> str:
    segments = path.split("/", 2)
    segments[1:2] = [segment if "%" in segment else segment.lower() for segment in segments[1:2]]
    return "/".join(segments)
