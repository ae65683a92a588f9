"""What every process serves over HTTP: `/metrics`, `/livez`, `/readyz`, `/healthz`."""

from ._server import HealthServer

__all__ = ["HealthServer"]
