"""`Session`: under which name, and by which secret, an agent holds locks. Chance is used here and nowhere else."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Self

import msgspec

SECRET_BYTES = 32


class Session(msgspec.Struct, frozen=True):
    """What an agent's locks belong to. They are told apart by `id`, which others may see; who knows `secret` renews
    and releases them. Two with one id and different secrets are two sessions."""

    id: str
    secret: str

    @classmethod
    def new(cls, id: str | None = None) -> Self:
        """A session with a secret of its own: 256 random bits, base64url. Without an `id` that is random too."""
        return cls(token_urlsafe(SECRET_BYTES) if id is None else id, token_urlsafe(SECRET_BYTES))

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, secret='…')"
