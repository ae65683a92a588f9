"""Every stream, subject, key and consumer name: built and parsed here and nowhere else.

A *token* is one part of a subject. Free names (keys, message names, timer names) become one token, reversibly: what is
not `[A-Za-z0-9_-]` is written `=HH`. Handlers keep their dots, so subjects that hold one are parsed from the right.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

from ..errors import NameInvalid

NAMESPACE = re.compile(r"[a-z0-9-]{1,32}")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
HANDLER = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+){0,7}")
EVENT_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){1,15}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")

NAME_CHARACTERS_MAX = 200
"""Of a derived token: a longer one ends in a hash. Subjects stay far below the server's line limit of 4 KiB."""
SHARDS_MAX = 64


def escape_token(text: str) -> str:
    """Any text as one token."""
    if _TOKEN.fullmatch(text):
        return text
    escaped = _UNSAFE.sub(lambda found: b"=%02X" % found[0][0], text.encode()).decode()
    return _bounded(escaped or "=")


def unescape_token(token: str) -> str:
    """The text that `escape_token` was given (unless it was cut)."""
    if "=" not in token:
        return token
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), token.encode()).decode(errors="replace")


def join_name(*parts: str | int) -> str:
    """A derived name: parts, each escaped unless it is one already, joined by `=`."""
    return _bounded("=".join(str(part) for part in parts))


def _bounded(token: str) -> str:
    if len(token) <= NAME_CHARACTERS_MAX:
        return token
    digest = hashlib.sha256(token.encode()).hexdigest()[:32]
    return f"{token[: NAME_CHARACTERS_MAX - 33]}={digest}"


def check_run_id(run: str) -> str:
    """Raises `NameInvalid` unless `run` is a legal run id of a user."""
    if not RUN_ID.fullmatch(run):
        raise NameInvalid(
            "run id",
            run,
            "1-100 characters of A-Z a-z 0-9 _ -, not starting with _ or -",
        )
    return run


def check_handler(handler: str) -> str:
    if not HANDLER.fullmatch(handler):
        raise NameInvalid("handler", handler, "dotted lower-case words such as orders.reserve")
    return handler


def check_event_type(event_type: str) -> str:
    if not EVENT_TYPE.fullmatch(event_type):
        raise NameInvalid(
            "event type",
            event_type,
            "namespace.type in tokens of A-Z a-z 0-9 _ -, such as shop.order.placed",
        )
    return event_type


@lru_cache(maxsize=4096)
def shard_of(run: str, shards: int) -> int:
    """FNV-1a-32 of the run id, modulo the number of shards."""
    if shards == 1:
        return 0
    value = 0x811C9DC5
    for byte in run.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % shards


class MailboxAddress(NamedTuple):
    """What the subject of a mailbox message or wake says.

    `name` is a message's or timer's name; unused parts are empty.
    """

    kind: str
    run: str
    id: str = ""
    name: str = ""
    handler: str = ""
    inc: int = 0
    step: str = ""
    attempt: int = 0


class TaskAddress(NamedTuple):
    handler: str
    run: str
    inc: int
    step: str
    attempt: int


class Names:
    """The names of one namespace."""

    def __init__(self, namespace: str = "jetloom", shards: int = 1) -> None:
        if not NAMESPACE.fullmatch(namespace):
            raise NameInvalid("namespace", namespace, "1-32 characters of a-z 0-9 -")
        if not 1 <= shards <= SHARDS_MAX:
            raise NameInvalid("number of shards", str(shards), f"1 to {SHARDS_MAX}")
        self.namespace = namespace
        self.shards = shards
        upper = namespace.upper()
        self.tasks_stream = f"{upper}_TASKS"
        self.events_stream = f"{upper}_EVENTS"
        self.dlq_stream = f"{upper}_DLQ"
        self.blobs_stream = f"{upper}_BLOBS"
        self.markers_bucket = f"{namespace}_markers"
        self.locks_bucket = f"{namespace}_locks"
        self.handled_bucket = f"{namespace}_handled"
        self.workflows_bucket = f"{namespace}_workflows"
        self.config_bucket = f"{namespace}_config"
        self.index_bucket = f"{namespace}_index"
        self.schedules_bucket = f"{namespace}_schedules"
        self.markers_stream = bucket_stream(self.markers_bucket)
        self.locks_stream = bucket_stream(self.locks_bucket)
        self.handled_stream = bucket_stream(self.handled_bucket)
        self.workflows_stream = bucket_stream(self.workflows_bucket)
        self.config_stream = bucket_stream(self.config_bucket)
        self.index_stream = bucket_stream(self.index_bucket)
        self._journals = tuple(f"$KV.{self.runs_bucket(shard)}.run." for shard in range(shards))
        self._mailbox_prefix = f"{namespace}.mailbox."
        self._wake_prefix = f"{namespace}.wake."
        self._events_prefix = f"{namespace}.events."

    def shard(self, run: str) -> int:
        return shard_of(run, self.shards)

    # -- per shard
    def runs_bucket(self, shard: int) -> str:
        return f"{self.namespace}_runs{_suffix(shard)}"

    def runs_stream(self, shard: int) -> str:
        return f"KV_{self.namespace}_runs{_suffix(shard)}"

    def mailbox_stream(self, shard: int) -> str:
        return f"{self.namespace.upper()}_MAILBOX{_suffix(shard)}"

    def timers_stream(self, shard: int) -> str:
        return f"{self.namespace.upper()}_TIMERS{_suffix(shard)}"

    # -- runs
    def journal(self, run: str) -> str:
        return self._journals[shard_of(run, self.shards)] + run

    def journals(self, shard: int) -> str:
        return f"{self._journals[shard]}*"

    def mailbox(self, run: str) -> str:
        return f"{self._mailbox_prefix}{self.shard(run)}.{run}"

    def start(self, run: str) -> str:
        return f"{self.mailbox(run)}.start"

    def result(self, run: str, handler: str, inc: int, step: str, attempt: int) -> str:
        return f"{self.mailbox(run)}.result.{handler}.{inc}.{step}.{attempt}"

    def message(self, run: str, name: str, message_id: str) -> str:
        return f"{self.mailbox(run)}.message.{escape_token(name)}.{escape_token(message_id)}"

    def cancel(self, run: str, cancel_id: str) -> str:
        return f"{self.mailbox(run)}.cancel.{escape_token(cancel_id)}"

    def action(self, run: str, action_id: str) -> str:
        return f"{self.mailbox(run)}.action.{escape_token(action_id)}"

    def poke(self, run: str) -> str:
        return f"{self.mailbox(run)}.poke"

    def timer(self, run: str, inc: int, name: str) -> str:
        return f"{self.namespace}.timer.{self.shard(run)}.{run}.{inc}.{name}"

    def wake(self, run: str, inc: int, name: str) -> str:
        return f"{self._wake_prefix}{self.shard(run)}.{run}.{inc}.{name}"

    def mailbox_filters(self, shard: int, *kinds: str) -> tuple[str, ...]:
        """Filter subjects of the mailbox's consumers. Each kind has subjects of its own length."""
        tails = {
            "start": "start",
            "result": "result.>",
            "message": "message.*.*",
            "cancel": "cancel.*",
            "action": "action.*",
            "poke": "poke",
        }
        return tuple(f"{self._mailbox_prefix}{shard}.*.{tails[kind]}" for kind in kinds)

    def wake_filter(self, shard: int) -> str:
        return f"{self._wake_prefix}{shard}.>"

    def timer_filter(self, shard: int) -> str:
        return f"{self.namespace}.timer.{shard}.>"

    def tick(self, trigger: str) -> str:
        return f"{self.namespace}.tick.{trigger}"

    def cron(self, trigger: str) -> str:
        return f"{self.namespace}.cron.{trigger}"

    def schedule_tick(self, module: str, name: str) -> str:
        """Where a module's schedule fires. Two tokens: the engines' `tick("*")` never sees them."""
        return f"{self.namespace}.tick.{module}.{name}"

    def schedule_armed(self, module: str, name: str, fingerprint: str, instant: float) -> str:
        """The server's timer for one instant (epoch seconds) of a module's schedule."""
        return f"{self.namespace}.cron.{module}.{name}.{fingerprint}.{round(instant * 1000)}"

    def schedule_armed_filter(self, module: str, name: str, fingerprint: str = "*") -> str:
        return f"{self.namespace}.cron.{module}.{name}.{fingerprint}.*"

    def schedule_consumer(self, module: str, name: str) -> str:
        return join_name("tick", module, name)

    # -- tasks
    def task(self, handler: str, run: str, inc: int, step: str, attempt: int) -> str:
        return f"{self.namespace}.task.{handler}.{run}.{inc}.{step}.{attempt}"

    def task_filter(self, handler: str) -> str:
        return f"{self.namespace}.task.{handler}.*.*.*.*"

    def tasks_filter(self) -> str:
        return f"{self.namespace}.task.>"

    def task_consumer(self, handler: str) -> str:
        return f"task-{escape_token(handler)}"

    def stop(self, handler: str) -> str:
        """Core subject on which workers hear that a task's attempt is over."""
        return f"{self.namespace}.stop.{handler}"

    # -- engines
    def holding(self, engine: str) -> str:
        return f"{self.namespace}.engine.{engine}.holding"

    def changed(self, engine: str) -> str:
        return f"{self.namespace}.engine.{engine}.changed"

    def settled(self) -> str:
        return f"{self.namespace}.engine.settled"

    def api(self, verb: str) -> str:
        return f"{self.namespace}.api.{verb}"

    # -- markers, index, definitions, locks
    def emit(self, run: str, inc: int, key: str, event_type: str) -> str:
        return f"$KV.{self.markers_bucket}.emit.{run}.{inc}.{key}.{event_type}"

    def note(self, run: str, inc: int, step: str, key: str) -> str:
        return f"$KV.{self.markers_bucket}.note.{run}.{inc}.{step}.{escape_token(key)}"

    def markers_of(self, run: str, inc: int) -> tuple[str, ...]:
        return tuple(f"$KV.{self.markers_bucket}.{kind}.{run}.{inc}.>" for kind in ("emit", "effect", "note"))

    def index(self, status: str, workflow: str, run: str) -> str:
        return f"$KV.{self.index_bucket}.{status}.{escape_token(workflow)}.{run}"

    def workflow(self, name: str, fingerprint: str) -> str:
        return f"$KV.{self.workflows_bucket}.{escape_token(name)}.{fingerprint}"

    def lock(self, name: str) -> str:
        return f"$KV.{self.locks_bucket}.{escape_token(name)}"

    def lock_name(self, subject: str) -> str:
        """The name of the lock that is kept under this subject."""
        return unescape_token(subject.rpartition(".")[2])

    def lock_wanted(self, name: str) -> str:
        """Core subject on which holders hear that others wait for a lock; `*` for all of them."""
        return f"{self.namespace}.lock.wanted.{name if name == '*' else escape_token(name)}"

    def blob(self, root: str, inc: int, digest: str, chunk: int | str) -> str:
        return f"{self.namespace}.blob.{root}.{inc}.{digest}.{chunk}"

    # -- events
    def event(self, event_type: str) -> str:
        return f"{self._events_prefix}{event_type}"

    def event_type(self, subject: str) -> str:
        """The event type of an events subject."""
        return subject.removeprefix(self._events_prefix)

    def dead_letter(self, module: str, handler: str) -> str:
        return f"{self.namespace}.dlq.{escape_token(module)}.{escape_token(handler)}"

    # -- modules
    def kv_bucket(self, bucket: str) -> str:
        """A bucket of the modules' own; apart from the engine's, whatever its name."""
        return f"{self.namespace}_kv_{bucket}"

    def rpc(self, service: str, endpoint: str) -> str:
        return f"{self.namespace}.rpc.{service}.{endpoint}"

    # -- parsing
    def parse_mailbox(self, subject: str) -> MailboxAddress | None:
        """What a mailbox or wake subject says; None when it is not one of this namespace."""
        if subject.startswith(self._wake_prefix):
            parts = subject[len(self._wake_prefix) :].split(".")
            if len(parts) != 4 or not parts[2].isdigit():
                return None
            return MailboxAddress("wake", parts[1], name=parts[3], inc=int(parts[2]))
        if not subject.startswith(self._mailbox_prefix):
            return None
        parts = subject[len(self._mailbox_prefix) :].split(".")
        if len(parts) < 3:
            return None
        run, kind, rest = parts[1], parts[2], parts[3:]
        match kind, len(rest):
            case (("start" | "poke"), 0):
                return MailboxAddress(kind, run)
            case (("cancel" | "action"), 1):
                return MailboxAddress(kind, run, id=rest[0])
            case "message", 2:
                return MailboxAddress(kind, run, id=rest[1], name=unescape_token(rest[0]))
            case "result", count if count >= 4:
                inc, step, attempt = rest[-3:]
                if not (inc.isdigit() and attempt.isdigit()):
                    return None
                return MailboxAddress(
                    kind,
                    run,
                    handler=".".join(rest[:-3]),
                    inc=int(inc),
                    step=step,
                    attempt=int(attempt),
                )
            case _:
                return None

    def parse_task(self, subject: str) -> TaskAddress | None:
        prefix = f"{self.namespace}.task."
        parts = subject[len(prefix) :].split(".") if subject.startswith(prefix) else []
        if len(parts) < 5 or not (parts[-3].isdigit() and parts[-1].isdigit()):
            return None
        return TaskAddress(".".join(parts[:-4]), parts[-4], int(parts[-3]), parts[-2], int(parts[-1]))

    def run_of_journal(self, subject: str) -> str:
        return subject.rpartition(".run.")[2]


def bucket_stream(bucket: str) -> str:
    """The stream behind a KV bucket."""
    return f"KV_{bucket}"


def bucket_key(bucket: str, key: str) -> str:
    """The subject of a bucket's key."""
    return f"$KV.{bucket}.{key}"


def _suffix(shard: int) -> str:
    return f"_{shard}" if shard else ""
