"""What can go wrong with a journal, as the layers above see it. Adapters map vendors' exceptions to these."""

from __future__ import annotations


class JournalError(Exception):
    """Anything a journal raises. The message says what, where and what to do."""


class Unavailable(JournalError):
    """The environment: no broker, no disk, no answer in time. Trying again later can help."""


class AccessDenied(Unavailable):
    """One side does not let the other in, or not do that: a certificate that is not trusted, a user or password that is
    not accepted, a topic, group or transactional id that is not allowed. Nothing was written.

    Waiting does not heal it. It is `Unavailable` to whoever is serving already, since rights can be given back
    meanwhile: what has begun goes on trying. What begins should end, and say it.
    """


class NoJournal(Unavailable):
    """Nothing is there yet, and opening was not to make it."""


class LaneLost(JournalError):
    """This session no longer owns its partition, or cannot know whether it does. Drop the lane; never retry.

    `fenced` says that a later claimant exists for certain: claim again only after a group heartbeat.
    """

    def __init__(self, message: str, *, fenced: bool) -> None:
        super().__init__(message)
        self.fenced = fenced


class PositionLost(JournalError):
    """A position outside the log: input was removed before it was read, or the log was set back. Halt."""


class TooLarge(JournalError):
    """A record is over what the topic takes. Nothing was written."""


class TopicMismatch(JournalError):
    """A topic exists with other settings than it must have."""


class BadUrl(JournalError):
    """The URL names no journal that keylane knows, or one it refuses (a network file system, `-O`)."""
