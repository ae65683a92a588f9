"""FastStream's handlers, and the payload as its documentation has it: a Pydantic model."""

# FastStream reads the annotations of handlers at run time: they are not postponed in this file.

from typing import TYPE_CHECKING

from ._seen import ECHO, STREAM, SUBJECT, Seen

if TYPE_CHECKING:
    from faststream.nats import NatsBroker
    from pydantic import BaseModel
else:
    try:
        from pydantic import BaseModel
    except ImportError:  # the workload says that it is not installed
        BaseModel = object

DURABLE = "things"
CONCURRENCY = 256
BATCH = 200


class Thing(BaseModel):
    number: int
    at: float
    text: str


def subscribe(broker: "NatsBroker", seen: Seen, mode: str) -> None:
    """A durable group with acknowledgements, by `push` or by `pull`, and an endpoint."""
    from faststream import AckPolicy
    from faststream.nats import JStream, PullSub

    async def happened(thing: Thing) -> None:
        seen.note(thing.number, thing.at)

    async def echo(thing: Thing) -> Thing:
        return thing

    broker.subscriber(
        SUBJECT,
        stream=JStream(STREAM, subjects=[SUBJECT]),
        durable=DURABLE,
        queue="" if mode == "pull" else DURABLE,
        pull_sub=PullSub(batch_size=BATCH, timeout=1.0) if mode == "pull" else False,
        max_workers=CONCURRENCY,
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )(happened)
    broker.subscriber(ECHO, max_workers=CONCURRENCY)(echo)
