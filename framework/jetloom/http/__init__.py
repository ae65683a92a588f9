"""What every process serves over HTTP: `/metrics`, `/livez`, `/readyz`."""

from ._server import HealthServer

__all__ = ["HealthServer"]
