"""The holder's own clock: it stops before the lane could give the item to another."""

from keylane.schemas.items import WorkItem
from keylane.workers.lease import Held, usable_ms


def held(lease_ms: int, hold_ms: int) -> Held:
    item = WorkItem(
        session="s",
        number=1,
        heartbeat=0,
        run="r",
        resource="a://b",
        owner="a://b",
        action="x",
        token=1,
        attempt=1,
        lease_ms=lease_ms,
        hold_ms=hold_ms,
    )
    return Held(item, None, granted_ms=1_000, renewed_ms=1_000)


def test_a_lease_is_used_up_to_a_margin_and_renewals_move_its_end() -> None:
    holding = held(lease_ms=5_000, hold_ms=60_000)
    assert holding.ends_ms() == 1_000 + usable_ms(5_000) < 6_000
    holding.renewed_ms = 4_000
    assert holding.ends_ms() == 4_000 + usable_ms(5_000)


def test_no_renewal_reaches_beyond_the_longest_holding() -> None:
    holding = held(lease_ms=5_000, hold_ms=8_000)
    holding.renewed_ms = 7_500
    assert holding.ends_ms() == 1_000 + usable_ms(8_000)
