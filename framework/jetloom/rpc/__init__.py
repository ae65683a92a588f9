"""Requests and answers: typed calls, and endpoints as NATS micro services (ADR-32).

The endpoints run on core subscriptions of our own, several requests at once up to a limit; above it the answer is
`Busy`. An error crosses as the headers `Nats-Service-Error` and `-Code` with an `ErrorInfo` body, and is raised by the
caller as the same class. A request is at most once: a caller that got no answer doesn't know whether it was handled.

A request is in one of these states at its service: refused (stopping, or busy), running (one task, one timer for the
deadline), answered. What cancels a running one: its deadline (answered with `RequestTimeout`), a stop that has waited
long enough (`Unavailable`), or its caller, by the request's id on `$SRV.CANCEL.<service>` (not answered). An answer in
parts never runs more than a window ahead of its reader, and ends when the reader is gone. Nothing here is stored: what
must survive a crash is an event or a run.
"""

from ._call import Rpc
from ._discovery import EndpointFigures, EndpointInfo, ServiceInfo, ServiceStats
from ._endpoint import Describe, Endpoint, EndpointSpec
from ._errors import Busy, error_reply, status_of
from ._retry import CallRetry
from ._service import MicroService
from ._serving import EndpointStats

__all__ = [
    "Busy",
    "CallRetry",
    "Describe",
    "Endpoint",
    "EndpointFigures",
    "EndpointInfo",
    "EndpointSpec",
    "EndpointStats",
    "MicroService",
    "Rpc",
    "ServiceInfo",
    "ServiceStats",
    "error_reply",
    "status_of",
]
