"""The one table of metrics: what is not in it can't be counted."""

from __future__ import annotations

from typing import Literal

import msgspec

type MetricKind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Buckets from a local step to one that waits for people's systems."""

UNITS = (
    "_total",
    "_seconds",
    "_bytes",
    "_ratio",
    "_info",
    "_runs",
    "_messages",
    "_steps",
    "_requests",
    "_events",
)
"""What a metric's name may end in."""


class MetricSpec(msgspec.Struct, frozen=True):
    """One metric. Labels are bounded: names from code and definitions, statuses, outcomes; never a run id."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


METRICS: tuple[MetricSpec, ...] = (
    # engine
    MetricSpec("jetloom_runs_started_total", "counter", "Runs that this engine began.", ("workflow",)),
    MetricSpec("jetloom_runs_ended_total", "counter", "Runs that this engine ended.", ("workflow", "status")),
    MetricSpec(
        "jetloom_run_duration_seconds", "histogram", "From a run's start to its end.", ("workflow", "status")
    ),
    MetricSpec("jetloom_held_runs", "gauge", "Runs in this engine's table now."),
    MetricSpec(
        "jetloom_appends_total",
        "counter",
        "Journal appends; outcome accepted, refused or unknown.",
        ("outcome",),
    ),
    MetricSpec("jetloom_append_duration_seconds", "histogram", "One journal append until its answer."),
    MetricSpec(
        "jetloom_resumes_total", "counter", "Runs taken over with work that another process had begun."
    ),
    MetricSpec(
        "jetloom_steps_total",
        "counter",
        "Attempts that ended; outcome completed, failed, retried, cancelled.",
        ("handler", "outcome"),
    ),
    MetricSpec("jetloom_step_duration_seconds", "histogram", "One attempt of a step's body.", ("handler",)),
    MetricSpec("jetloom_active_steps", "gauge", "Bodies that run in this process now."),
    MetricSpec(
        "jetloom_unserved_tasks_total",
        "counter",
        "Looks at a pending task whose handler nobody serves.",
        ("handler",),
    ),
    MetricSpec(
        "jetloom_deliveries_total",
        "counter",
        "Messages delivered; redelivered true from the second time on.",
        ("consumer", "redelivered"),
    ),
    MetricSpec(
        "jetloom_unapplied_messages_total",
        "counter",
        "Mailbox messages concluded without changing their run.",
        ("kind", "reason"),
    ),
    MetricSpec(
        "jetloom_outputs_total",
        "counter",
        "Derived outputs; outcome sent, present (existed already) or failed.",
        ("kind", "outcome"),
    ),
    MetricSpec("jetloom_wake_lateness_seconds", "histogram", "How late timers fire."),
    # events
    MetricSpec("jetloom_events_published_total", "counter", "Events stored by this process.", ("type",)),
    MetricSpec(
        "jetloom_events_handled_total", "counter", "Events handled to the end.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_events_retried_total", "counter", "Events given back for a later try.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_dead_letters_total",
        "counter",
        "Events that went to the dead letters.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_event_duration_seconds", "histogram", "One try of an event handler.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_events_filtered_total",
        "counter",
        "Events that a handler's condition passed over.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_events_deduped_total",
        "counter",
        "Events passed over because their id was handled before.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_events_dropped_total",
        "counter",
        "Events that a live handler was too slow for.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_events_failed_total",
        "counter",
        "Events that a live handler failed on; nobody tries them again.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_dead_letters_replayed_total",
        "counter",
        "Dead letters handled again; outcome handled or failed.",
        ("module", "handler", "outcome"),
    ),
    MetricSpec(
        "jetloom_consumer_pending_messages",
        "gauge",
        "Events that wait at the server for this handler's group.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_keyed_active_ratio",
        "gauge",
        "1 while this replica handles the events of a handler with a key, else 0.",
        ("module", "handler"),
    ),
    MetricSpec("jetloom_handling_events", "gauge", "Events being handled now.", ("module", "handler")),
    # schedules
    MetricSpec(
        "jetloom_ticks_handled_total", "counter", "Scheduled calls that ended well.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_ticks_retried_total",
        "counter",
        "Scheduled calls given back for a later try.",
        ("module", "handler"),
    ),
    MetricSpec(
        "jetloom_ticks_missed_total", "counter", "Instants that were passed over.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_tick_duration_seconds", "histogram", "One try of a scheduled call.", ("module", "handler")
    ),
    MetricSpec(
        "jetloom_tick_lateness_seconds",
        "histogram",
        "From a schedule's instant to the call for it.",
        ("module", "handler"),
    ),
    # requests
    MetricSpec(
        "jetloom_requests_total",
        "counter",
        "Requests served; outcome ok, busy or an error's code.",
        ("service", "endpoint", "outcome"),
    ),
    MetricSpec(
        "jetloom_request_duration_seconds", "histogram", "One request served.", ("service", "endpoint")
    ),
    MetricSpec("jetloom_handling_requests", "gauge", "Requests being served now.", ("service",)),
    MetricSpec(
        "jetloom_calls_total",
        "counter",
        "Requests made; outcome ok or an error's code.",
        ("service", "endpoint", "outcome"),
    ),
    # locks
    MetricSpec("jetloom_lock_wait_seconds", "histogram", "From asking for a lock to having it."),
    MetricSpec("jetloom_lock_held_seconds", "histogram", "From having a lock to its end."),
    MetricSpec(
        "jetloom_locks_lost_total",
        "counter",
        "Locks lost while held; reason taken, unproven or stopped.",
        ("reason",),
    ),
    # process
    MetricSpec("jetloom_nats_disconnects_total", "counter", "Connections to NATS that were lost."),
    MetricSpec("jetloom_nats_reconnects_total", "counter", "Connections to NATS that were restored."),
    MetricSpec("jetloom_nats_connected_ratio", "gauge", "1 while connected to NATS, else 0."),
    MetricSpec("jetloom_event_loop_lag_seconds", "histogram", "How late the event loop runs what is due."),
    MetricSpec(
        "jetloom_task_failures_total", "counter", "Background tasks that ended with an error.", ("task",)
    ),
    MetricSpec(
        "jetloom_health_ratio",
        "gauge",
        "1 while the module's health check passes, else 0.",
        ("module", "check"),
    ),
    MetricSpec("jetloom_build_info", "gauge", "Always 1; the version is in the label.", ("version",)),
)
