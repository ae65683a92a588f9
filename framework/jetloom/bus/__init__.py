"""Events: publish and subscribe on JetStream, with dead letters.

A handler's group is one durable consumer, named by module and handler. An event is acknowledged after its handler has
returned, so a handler sees an event at least once. A failure gives the event back with a delay that the server keeps;
what fails for good, or can't be decoded, is stored in the dead letters first and acknowledged then. While a handler
works its event is beaten for, so only a dead process's events come again early. Order holds only with concurrency 1,
and not over a retry.
"""

from ._bus import Bus
from ._dead_letters import DeadLetter, DeadLetters, get_dead_letter, list_dead_letters
from ._event import Event, PayloadDecoder
from ._follow import follow_events
from ._handler import EventHandler, Mode, Start
from ._retry import Retry
from ._subscription import GroupSubscription, check_pattern, consumer_name

__all__ = [
    "Bus",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "EventHandler",
    "GroupSubscription",
    "Mode",
    "PayloadDecoder",
    "Retry",
    "Start",
    "check_pattern",
    "consumer_name",
    "follow_events",
    "get_dead_letter",
    "list_dead_letters",
]
