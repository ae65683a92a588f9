"""Requests and answers: typed calls, and endpoints as NATS micro services (ADR-32).

The endpoints run on core subscriptions of our own, several requests at once up to a limit; above it the answer is
`Busy`. An error crosses as the headers `Nats-Service-Error` and `-Code` with an `ErrorInfo` body, and is raised by the
caller as the same class. A request is at most once: a caller that got no answer doesn't know whether it was handled.
"""

from ._call import Rpc
from ._endpoint import Describe, Endpoint, EndpointSpec
from ._errors import Busy, error_reply, status_of
from ._service import EndpointStats, MicroService

__all__ = [
    "Busy",
    "Describe",
    "Endpoint",
    "EndpointSpec",
    "EndpointStats",
    "MicroService",
    "Rpc",
    "error_reply",
    "status_of",
]
