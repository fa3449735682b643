"""Events as they are read, each decoded once for all who read it: only the simulation's speed depends on it."""

from __future__ import annotations

from functools import lru_cache

from keylane.schemas import codec

decode_event = lru_cache(maxsize=2_048)(codec.decode_event)
"""The same bytes are the same event, and events never change."""
