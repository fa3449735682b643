"""keylane.guards: small checks for targets, which refuse a lower fencing token than they have seen.

`sql`, `files`, `http` (with `wsgi` and `asgi`) and `kubernetes` are the kinds of target; here are their errors. A guard
knows nothing of routers, leases and journals: the token that a holder sends is all that it goes by. An equal token
passes, since it is the same grant again.
"""

from keylane.guards.tokens import Busy, StaleToken, Unusable

__all__ = ["Busy", "StaleToken", "Unusable"]
