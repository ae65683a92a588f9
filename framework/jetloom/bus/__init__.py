"""Events: publish and subscribe on JetStream, with dead letters.

A handler's group is one durable consumer, named by module and handler. An event is acknowledged after its handler has
returned, so a handler sees an event at least once. A failure gives the event back with a delay that the server keeps;
what fails for good, or can't be decoded, is stored in the dead letters first and acknowledged then. While a handler
works its event is beaten for, so only a dead process's events come again early.

`EventSubscription` has a subscription's life; what differs is how events come in: `_group` (one at a time, several
beside each other), `_batches`, `_keyed` (in order by key), `_live` (without acknowledgement). All share one path of an
event, `_handling`, which a replayed dead letter takes too. Order holds for handlers with a key only, or with
concurrency 1 and without retries. Not guaranteed: exactly one call for an event; `dedupe` makes a second one rare.
"""

from ._bulk import NewEvent, Published, PublishFailure
from ._bus import Bus
from ._dead_letters import DeadLetter, DeadLetters, find_dead_letters, get_dead_letter, list_dead_letters
from ._event import Event, PayloadDecoder
from ._follow import follow_events
from ._handler import EventHandler, Mode, Start
from ._handling import check_event_handler
from ._patterns import check_pattern, consumer_name
from ._replay import ReplayDesk, ReplayOutcome, drop_dead_letters, replay_dead_letters
from ._retry import Retry
from ._subscription import EventSubscription

__all__ = [
    "Bus",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "EventHandler",
    "EventSubscription",
    "Mode",
    "NewEvent",
    "PayloadDecoder",
    "PublishFailure",
    "Published",
    "ReplayDesk",
    "ReplayOutcome",
    "Retry",
    "Start",
    "check_event_handler",
    "check_pattern",
    "consumer_name",
    "drop_dead_letters",
    "find_dead_letters",
    "follow_events",
    "get_dead_letter",
    "list_dead_letters",
    "replay_dead_letters",
]
