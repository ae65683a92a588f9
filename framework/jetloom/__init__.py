"""jetloom: event-driven modules and durable workflows on NATS alone."""

__all__: list[str] = []
