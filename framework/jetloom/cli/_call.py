"""`jetloom call`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import InvalidInput, NoResponders, NotFound, RequestTimeout
from . import _session
from ._common import Common, current_actor, parse_duration, read_json
from ._emit import print_error, print_json
from ._exit import OK, TIMEOUT
from ._process import run_command

if TYPE_CHECKING:
    from ..rpc import Rpc
    from ..types import JSON
    from ._session import Session

_DEFAULT = Common()


def call(
    endpoint: str,
    payload: str = "null",
    /,
    *,
    timeout: str = "5s",
    instance: str = "",
    stream: Annotated[bool, Parameter(negative=())] = False,
    common: Common = _DEFAULT,
) -> int:
    """Call an endpoint of a module and print its answer as JSON.

    For example:

        jetloom call prices.quote '{"item": "pen"}'
        jetloom call prices.quote @request.json --timeout 30s
        jetloom call prices.history '"pen"' --stream

    Parameters
    ----------
    endpoint
        module.endpoint; `jetloom modules list` names them.
    payload
        JSON, @file or @- for stdin.
    timeout
        How long to wait for the answer, with --stream for each part.
    instance
        The id of one instance, as `jetloom modules show` prints it; otherwise any answers.
    stream
        Print an answer that comes in parts, a line for each as it comes.
    """
    service, dot, name = endpoint.partition(".")
    if not (service and dot and name) or any(sign in endpoint for sign in "*> \t"):
        raise InvalidInput(f"endpoint {endpoint!r}: expected module.endpoint, such as prices.quote")
    if instance and not instance.isalnum():
        raise InvalidInput(f"--instance {instance!r}: expected an id that `jetloom modules show` prints")
    value = read_json(payload, "the payload")
    seconds = parse_duration(timeout, "--timeout")

    async def main() -> int:
        async with _session.open_session(common) as session:
            rpc = _rpc(session)
            try:
                await _print_answer(rpc, service, name, value, seconds, instance, stream)
            except NoResponders as error:
                raise NotFound(await _who_answers(rpc, session, service, name, instance)) from error
            except RequestTimeout as error:
                print_error(
                    error.message,
                    hint="--timeout gives it longer; the request may have been handled",
                    code=error.code,
                    exit_code=TIMEOUT,
                    json=common.json,
                )
                return TIMEOUT
            return OK

    return run_command(main)


async def _print_answer(
    rpc: Rpc, service: str, name: str, value: JSON, seconds: float, instance: str, stream: bool
) -> None:
    if not stream:
        print_json(await rpc.call(service, name, value, timeout=seconds, instance=instance))
        return
    async for part in rpc.stream(service, name, value, timeout=seconds, instance=instance):
        print_json(part)


async def _who_answers(rpc: Rpc, session: Session, service: str, name: str, instance: str) -> str:
    """What is there instead of what was called."""
    from ._modules import nobody_answers

    found = await rpc.discover()
    here = [info for info in found if info.name == service]
    if not here:
        return nobody_answers(service, found, session.names.namespace)
    if instance and instance not in {info.id for info in here}:
        return f"{service} has no instance {instance!r}; these answer: {', '.join(info.id for info in here)}"
    endpoints = sorted({each.name for info in here for each in info.endpoints or ()})
    return f"{service} has no endpoint {name!r}; it has: {', '.join(endpoints) or 'none'}"


def _rpc(session: Session) -> Rpc:
    from ..rpc import Rpc
    from ..telemetry import Metrics

    return Rpc(session.transport, session.names, session.clock, Metrics(process=False), actor=current_actor())
