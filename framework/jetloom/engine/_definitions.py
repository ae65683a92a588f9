"""Definitions as the bucket holds them: immutable, found by fingerprint."""

from __future__ import annotations

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConditionFailed, DecodeFailed, OutcomeUnknown, VersionConflict, WorkflowNotFound
from ..messages import Names, encode
from ..transport import Stored, Transport
from ..workflows import Compiled, Definition, compile_definition, fingerprint

VERSIONS_MAX = 1_000
"""Of one workflow that are looked at when one is registered."""
TRIES_MAX = 8
LATEST_SECONDS = 1.0
"""How long the latest version of a workflow is taken for it: what another process registers counts after this."""


class Definitions:
    """Reads and registers. Compiled definitions stay in memory: they never change."""

    def __init__(self, transport: Transport, names: Names, clock: Clock = SYSTEM_CLOCK) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._compiled: dict[str, Compiled] = {}
        self._latest: dict[str, tuple[float, Compiled]] = {}

    async def register(self, definition: Definition) -> str:
        """Its fingerprint. The same contents again are no change; another under the same version is refused.

        Raises `VersionConflict`.
        """
        found = fingerprint(definition)
        for known in await self._versions(definition.id):
            if known.version == definition.version and fingerprint(known) != found:
                raise VersionConflict(definition.id, definition.version)
        self._latest.pop(definition.id, None)
        subject = self._names.workflow(definition.id, found)
        for attempt in range(TRIES_MAX):
            try:
                await self._transport.append(subject, encode(definition), expected=0)
                break
            except ConditionFailed:
                break
            except OutcomeUnknown:
                if attempt == TRIES_MAX - 1:
                    raise
        return found

    async def find(self, workflow: str, wanted: str) -> Compiled | None:
        """The definition of that fingerprint; the latest one when it is empty."""
        if wanted:
            known = self._compiled.get(wanted)
            if known is not None:
                return known
            stored = await self._transport.last(
                self._names.workflows_stream, self._names.workflow(workflow, wanted)
            )
            return self._keep(_decode(stored)) if stored is not None else None
        now = self._clock.monotonic()
        read, latest = self._latest.get(workflow, (-LATEST_SECONDS, None))
        if now < read + LATEST_SECONDS:
            return latest
        versions = await self._versions(workflow)
        if not versions:
            return None
        latest = self._keep(versions[-1])
        self._latest[workflow] = now, latest
        return latest

    async def get(self, workflow: str, wanted: str = "") -> Compiled:
        """Raises `WorkflowNotFound`, with the names that there are."""
        found = await self.find(workflow, wanted)
        if found is None:
            raise WorkflowNotFound(workflow, sorted({definition.id for definition in await self.all()}))
        return found

    async def all(self) -> list[Definition]:
        """Every registered definition, oldest first."""
        stored = await self._transport.read(
            self._names.workflows_stream, f"$KV.{self._names.workflows_bucket}.>", limit=VERSIONS_MAX
        )
        return [_decode(item) for item in stored]

    async def _versions(self, workflow: str) -> list[Definition]:
        stored = await self._transport.read(
            self._names.workflows_stream, self._names.workflow(workflow, "*"), limit=VERSIONS_MAX
        )
        return [_decode(item) for item in stored]

    def _keep(self, definition: Definition) -> Compiled:
        compiled = compile_definition(definition)
        self._compiled[compiled.fingerprint] = compiled
        return compiled


def _decode(stored: Stored) -> Definition:
    try:
        return msgspec.json.decode(stored.data, type=Definition)
    except msgspec.DecodeError as error:
        raise DecodeFailed(f"definition {stored.subject}", str(error)) from error
