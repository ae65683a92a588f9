"""What every process serves over HTTP: `/metrics`, `/livez`, `/readyz`, `/healthz`; and the document of what modules
declare.

The parts load when they are first asked for: aiohttp is heavy, and a document needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._asyncapi import asyncapi_document, asyncapi_yaml
    from ._server import HealthServer

__all__ = ["HealthServer", "asyncapi_document", "asyncapi_yaml"]

_HOMES = {
    "HealthServer": "._server",
    "asyncapi_document": "._asyncapi",
    "asyncapi_yaml": "._asyncapi",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
