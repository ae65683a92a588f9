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
}
