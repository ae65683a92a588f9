"""What figures are compared with. A ratio is against a figure of the same run; bounds are the targets."""

from __future__ import annotations

from ._frame import ALWAYS, Key, Rule


def _limit(case: str, metric: str) -> Key:
    return Key("limits", case, metric)


RULES: dict[Key, Rule] = {
    **{
        Key("limits", f"publish at {n}", "hot path"): Rule(
            _limit(f"publish at {n}", "plain"), at_least=2.5 if n == 256 else None
        )
        for n in (1, 64, 256)
    },
    Key("limits", "core publish", "hot path"): Rule(_limit("core publish", "plain")),
    Key("limits", "request at 1", "hot path"): Rule(_limit("request at 1", "plain")),
    Key("limits", "request at 64", "hot path"): Rule(_limit("request at 64", "plain")),
    Key("limits", "pull and ack", "hot path"): Rule(_limit("pull and ack", "plain")),
    Key("chain", "at 64", "runs"): Rule(Key("chain", "at 64", "plain publishes at 256")),
    Key("chain", "at 256", "runs"): Rule(Key("chain", "at 256", "plain publishes at 256"), at_least=0.35),
    Key("chain", "at 1", "p50"): Rule(Key("chain", "at 1", "plain publish at 1 p50"), at_most=6),
    Key("chain", f"at 256{ALWAYS}", "runs"): Rule(Key("chain", "at 256", "runs"), at_least=0.5),
    Key("chain-remote", "at 64", "runs"): Rule(
        Key("chain-remote", "at 64", "plain publishes at 256"), at_least=0.10
    ),
    Key("chain-remote", "at 1", "p50"): Rule(at_most=4.0),
    Key("payload", "at 64", "runs"): Rule(Key("payload", "at 64", "plain publishes at 256")),
    Key("events", "at 256", "jetloom"): Rule(Key("events", "at 256", "faststream push"), at_least=2.5),
    Key("events", "at 256", "jetloom published"): Rule(Key("limits", "publish at 256", "plain")),
    Key("events", "at 1", "jetloom p50"): Rule(Key("limits", "publish at 1", "plain p50")),
    # 1.3 times of raw nats-py: its latency, and the inverse of it as a rate.
    Key("rpc", "at 1", "jetloom p50"): Rule(Key("rpc", "at 1", "plain p50"), at_most=1.3),
    Key("rpc", "at 64", "jetloom"): Rule(Key("rpc", "at 64", "plain"), at_least=round(1 / 1.3, 2)),
    Key("fanout", "100 steps", "p50"): Rule(at_most=10.0),
    Key("fanout", "10,000 steps", "p50"): Rule(at_most=1_000.0),
    Key("recovery", "restarted", "all done since the restart"): Rule(at_most=2.0),
    Key("recovery", "second engine", "all done since the kill"): Rule(at_most=4.0),
    **{
        Key("recovery", case, metric): rule
        for case in ("restarted", "second engine")
        for metric, rule in (
            ("runs lost", Rule(at_most=0)),
            ("bodies run twice", Rule(Key("recovery", case, "bodies in flight"), at_most=1)),
        )
    },
    Key("sleep", "2,000 runs of 2.8 s, held", "lateness p99"): Rule(at_most=30.0),
    Key("sleep", "2,000 runs of 5.5 s, fired", "lateness p99"): Rule(at_most=300.0),
    Key("sleep", "100,000 runs, 1,000 due a second", "lateness p99"): Rule(at_most=300.0),
    Key("sleep", "100,000 runs, 1,000 due a second", "engine memory while they wait"): Rule(at_most=150.0),
    Key("sleep", "100,000 runs, all due at once", "engine memory while they wait"): Rule(at_most=150.0),
    Key("message", "at 1", "p50"): Rule(at_most=1.5),
    Key("cold", "first result", "since process start"): Rule(at_most=1_500.0),
    Key("cold", "import jetloom", "time"): Rule(at_most=150.0),
    Key("history", "10,000 steps in a row", "step of the last tenth"): Rule(
        Key("history", "10,000 steps in a row", "step of the first tenth"), at_most=1.2
    ),
    **{
        Key("history", f"{n:,} finished runs", metric): Rule(
            Key("history", "0 finished runs", metric), at_most=1.2 if n == 1_000_000 else None
        )
        for n in (10_000, 100_000, 1_000_000)
        for metric in ("start p50", "run p50")
    },
    Key("engines", "chain at 256, 2 engines", "runs"): Rule(
        Key("engines", "chain at 256, 1 engine", "runs"), at_least=1.0
    ),
    Key("engines", "chain at 256, 4 engines", "runs"): Rule(Key("engines", "chain at 256, 1 engine", "runs")),
    **{
        Key("engines", f"1,000 remote steps, {n} engines", "time"): Rule(
            Key("engines", "1,000 remote steps, 1 engine", "time"), at_most=1.5
        )
        for n in (2, 4)
    },
}
