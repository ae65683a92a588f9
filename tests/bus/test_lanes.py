"""Which event may be handled next, by key."""

from __future__ import annotations

from jetloom.bus._lanes import Item, Lanes
from jetloom.transport import Delivery


def delivery(sequence: int) -> Delivery:
    return Delivery("s", b"", {}, "S", "c", sequence, 1, f"ack.{sequence}", 0.0, 0.0)


def filled(*pairs: tuple[int, str]) -> Lanes:
    lanes = Lanes()
    for sequence, key in pairs:
        lanes.add(delivery(sequence), key)
    return lanes


def taken(lanes: Lanes) -> Item:
    item = lanes.take()
    assert item is not None
    return item


def test_keys_go_beside_each_other() -> None:
    """The heads of all keys may be handled; the second of a key only after the first is finished."""
    lanes = filled((1, "a"), (2, "a"), (3, "b"))
    first, second = taken(lanes), taken(lanes)
    assert (first.delivery.sequence, second.delivery.sequence) == (1, 3)
    assert lanes.take() is None
    lanes.finish(first)
    assert taken(lanes).delivery.sequence == 2
    lanes.finish(second)
    assert lanes.take() is None
    assert len(lanes) == 1


def test_a_lane_is_in_the_order_of_the_stream() -> None:
    """What arrives late is put where it belongs."""
    lanes = filled((5, "a"), (2, "a"), (9, "a"), (4, "a"))
    order: list[int] = []
    while (item := lanes.take()) is not None:
        order.append(item.delivery.sequence)
        lanes.finish(item)
    assert order == [2, 4, 5, 9]


def test_what_failed_keeps_its_place() -> None:
    """A key waits for its head's next try, others go on."""
    lanes = filled((1, "a"), (2, "a"), (3, "b"))
    failed = taken(lanes)
    lanes.put_off(failed, 10.0)
    assert lanes.next_due == 10.0
    lanes.finish(taken(lanes))
    lanes.advance(9.9)
    assert lanes.take() is None
    lanes.add(delivery(4), "a")
    assert lanes.take() is None
    lanes.advance(10.0)
    assert taken(lanes) is failed
    assert lanes.next_due is None
