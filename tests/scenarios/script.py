"""Reads a scenario: each line says what happens, the indented lines under it what the lane published.

A line is a verb, its words, then `name=value` options. Durations are like `5s`. Tokens are t1, t2, … in the order
in which they were minted, on the way in as on the way out.

    config on_conflict=reject action=deploy        the policy of all actions, or of one; before anything else
    locks ttl= claim= max_hold=                    the same
    runbook KIND LINK                              the same
    scope MATCH OWNER                              a scope rule; before anything else, too
    lane of KEY in N                               the lane is that of this key, of N partitions
    join SESSION ACTION,… slots= generation= pool=
    heartbeat SESSION slots= read=
    leave SESSION
    request ID KEY ACTION [JSON] by= key= merge= version= requires= deadline= reject hops=
    cancel ID [KEY]
    change KEY WHAT version= by= source= sequence= id=   somebody changed the resource outside
    decide KEY REQUEST approve|reject [NOTE] by= version= digest=
    progress RUN [JSON] token= blocked=
    complete RUN [JSON] token= version= observed=
    fail RUN token= final retry= code= found=
    lock ID KEY by= session= hold= wait= ttl= explicit      asks to hold it itself; session: one of its own
    renew LOCK token= secret= blocked=
    release LOCK token= secret=
    cancel_lock ID secret=
    end_session SESSION secret=
    checked LOCK [SESSION RESOURCE …] holder=      the graph of waits has seen its edge; the cycle that it closes
    bytes TOPIC TEXT                               a record as it may lie there
    wait DURATION
    reload                                         the lane is dropped and loaded again
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.bench import API, Bench, work
from msgspec import Raw
from msgspec.structs import replace

from keylane.journal.partitioner import partition_of
from keylane.router.core.policy import ActionPolicy, Limit, Policy
from keylane.router.core.records import Output
from keylane.schemas import topics
from keylane.schemas.codec import decode_request, decode_result, excerpt
from keylane.schemas.conflicts import ConflictArtifact, ConflictResolved
from keylane.schemas.deadletters import DeadLetter
from keylane.schemas.event_parts import Event
from keylane.schemas.items import Notice, SessionClosed, SessionOpened, WorkItem
from keylane.schemas.metadata import ScopeRule
from keylane.schemas.requests import Cancellation

SETTINGS: dict[str, Callable[[str], Any]] = {
    "attempts": int,
    "max_count": int,
    "requires": lambda names: tuple(names.split(",")),
    "limit": lambda text: Limit(count=int(text.split(":")[0]), until=tuple(text.split(":")[1].split(","))),
}
"""How the values of options are written where they are no duration; a limit is `COUNT:UNTIL,…`."""
FLAGS: dict[str, Any] = {"yes": bool, "no": lambda _: False}
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
UNSAID = {"seq", "clock_ms", "time", "input", "resource", "owner", "parties", "actor", "action", "session", "number"}
"""What would only repeat the line above it."""


def ms(text: str) -> int:
    unit = next(unit for unit in ("ms", "s", "m", "h", "d") if text.endswith(unit))
    return int(text.removesuffix(unit)) * UNITS_MS[unit]


def split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Plain words, and options. JSON may hold `=`: it begins with a bracket or a quote."""
    plain = [word for word in words if "=" not in word or word[0] in '{["']
    options = dict(word.split("=", 1) for word in words if word not in plain)
    return plain, options


class Scenario:
    """Plays lines on a bench and says what came of each."""

    def __init__(self) -> None:
        self.policy = Policy()
        self.scopes: list[ScopeRule] = []
        self.bench = Bench(self.policy)
        self.tokens: list[int] = []
        self.offsets = 0

    def play(self, line: str) -> list[str]:
        verb, *words = line.split()
        plain, options = split(words)
        begin = len(self.bench.published)
        forwards = len(self.bench.forwards)
        getattr(self, f"do_{verb}")(plain, options)
        said = [self.said(output) for output in self.bench.published[begin:]]
        return said + [
            f">> partition {forward.partition}: {type(forward.record).__name__} {forward.record.id} hops=1"
            for forward in self.bench.forwards[forwards:]
        ]

    # -- what happens -------------------------------------------------------------------------------------

    def do_config(self, plain: list[str], options: dict[str, str]) -> None:
        action = options.pop("action", None)
        changes: dict[str, Any] = {}
        for name, value in options.items():
            if f"{name}_ms" in ActionPolicy.__struct_fields__:
                changes[f"{name}_ms"] = ms(value)
            else:
                changes[name] = SETTINGS.get(name, FLAGS.get(value, str))(value)
        if "pool" in changes:
            self.policy = replace(self.policy, pools=(*self.policy.pools, changes["pool"]))
        base = self.policy.of(action or "")
        if action is None:
            self.policy = replace(self.policy, defaults=replace(base, **changes))
        else:
            self.policy = replace(self.policy, actions=self.policy.actions | {action: replace(base, **changes)})
        self.bench = Bench(self.policy, scopes=self.scopes)

    def do_locks(self, plain: list[str], options: dict[str, str]) -> None:
        changes = {f"{name}_ms": ms(value) for name, value in options.items()}
        self.policy = replace(self.policy, locks=replace(self.policy.locks, **changes))
        self.bench = Bench(self.policy, scopes=self.scopes)

    def do_runbook(self, plain: list[str], options: dict[str, str]) -> None:
        kind, link = plain
        self.policy = replace(self.policy, runbooks=self.policy.runbooks | {kind: link})
        self.bench = Bench(self.policy, scopes=self.scopes)

    def do_scope(self, plain: list[str], options: dict[str, str]) -> None:
        self.scopes.append(ScopeRule(match=plain[0], owner=plain[1]))
        self.bench = Bench(self.policy, scopes=self.scopes)

    def do_lane(self, plain: list[str], options: dict[str, str]) -> None:
        _, key, _, partitions = plain
        self.bench = Bench(self.policy, partition_of(key.encode(), int(partitions)), int(partitions), self.scopes)

    def do_join(self, plain: list[str], options: dict[str, str]) -> None:
        session, actions = plain
        more = {"pool": options["pool"]} if "pool" in options else {}
        self.bench.join(
            session,
            *actions.split(","),
            slots=int(options.get("slots", "1")),
            generation=int(options.get("generation", "1")),
            **more,
        )

    def do_heartbeat(self, plain: list[str], options: dict[str, str]) -> None:
        read = int(options["read"]) if "read" in options else None
        self.bench.beat(plain[0], slots=int(options.get("slots", "1")), read=read)

    def do_leave(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.leave(plain[0])

    def do_request(self, plain: list[str], options: dict[str, str]) -> None:
        reject = "reject" in plain
        id, key, action, *payload = [word for word in plain if word != "reject"]
        self.bench.feed(
            work(
                id,
                action,
                "".join(payload) or "null",
                resource=key,
                actor=options.get("by", ""),
                requires=tuple(options["requires"].split(",")) if "requires" in options else (),
                coalesce_key=options.get("merge"),
                idempotency_key=options.get("key"),
                expected_version=options.get("version"),
                deadline_ms=ms(options["deadline"]) if "deadline" in options else None,
                reject_if_busy=reject,
                hops=int(options.get("hops", "0")),
            )
        )

    def do_cancel(self, plain: list[str], options: dict[str, str]) -> None:
        request, *key = plain
        self.bench.feed(Cancellation(id=f"c-{request}", resource=key[0] if key else API, request=request, actor="boss"))

    def do_change(self, plain: list[str], options: dict[str, str]) -> None:
        key, what = plain
        more = {name: options[name] for name in ("by", "source", "id") if name in options}
        if "sequence" in options:
            more["sequence"] = int(options["sequence"])  # type: ignore[assignment]
        self.bench.change(options.get("version", ""), key, what=what, **more)

    def do_decide(self, plain: list[str], options: dict[str, str]) -> None:
        key, request, verdict, *note = plain
        more = {name: options[name] for name in ("by", "digest") if name in options}
        version_seen = options.get("version", "")
        self.bench.decide(request, verdict, version_seen, key, note=" ".join(note), **more)  # type: ignore[arg-type]

    def do_progress(self, plain: list[str], options: dict[str, str]) -> None:
        run, *data = plain
        more = {"checkpoint": Raw("".join(data).encode())} if data else {}
        self.bench.progress(run, self.token(options), blocked=options.get("blocked"), **more)

    def do_complete(self, plain: list[str], options: dict[str, str]) -> None:
        run, *result = plain
        self.bench.complete(
            run,
            self.token(options),
            "".join(result) or "null",
            version=options.get("version"),
            observed_version=options.get("observed"),
        )

    def do_fail(self, plain: list[str], options: dict[str, str]) -> None:
        retry_after_ms = ms(options["retry"]) if "retry" in options else None
        final = "final" in plain
        self.bench.fail(
            plain[0],
            self.token(options),
            final=final,
            retry_after_ms=retry_after_ms,
            observed_version=options.get("found"),
            code=options.get("code", "BOOM"),
        )

    def do_lock(self, plain: list[str], options: dict[str, str]) -> None:
        id, key, *explicit = plain
        self.bench.lock(
            id,
            options.get("session"),
            key,
            actor=options.get("by", ""),
            hold=options.get("hold", ""),
            wait_ms=ms(options.get("wait", "0ms")),
            ttl_ms=ms(options["ttl"]) if "ttl" in options else None,
            explicit=bool(explicit),
        )

    def do_renew(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.renew(plain[0], options.get("blocked"), **self.proof(options))

    def do_release(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.release(plain[0], **self.proof(options))

    def do_cancel_lock(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.give_up(plain[0], **self.proof(options))

    def do_end_session(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.end_session(plain[0], **self.proof(options))

    def do_checked(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.checked(plain[0], options.get("holder"), *plain[1:])

    def proof(self, options: dict[str, str]) -> dict[str, Any]:
        """What is said otherwise than by the lock's holder."""
        token = {"token": self.token(options)} if "token" in options else {}
        return token | ({"secret": options["secret"]} if "secret" in options else {})

    def do_bytes(self, plain: list[str], options: dict[str, str]) -> None:
        topic, *text = plain
        value = " ".join(text).encode()
        record = (decode_result if topic == topics.RESULTS else decode_request)(value)
        self.bench.feed(record, topic, excerpt=excerpt(value))

    def do_wait(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.wait(ms(plain[0]))

    def do_reload(self, plain: list[str], options: dict[str, str]) -> None:
        self.bench.reload()

    def token(self, options: dict[str, str]) -> int | None:
        return self.tokens[int(options["token"][1:]) - 1] if "token" in options else None

    # -- what came of it ----------------------------------------------------------------------------------

    def said(self, output: Output) -> str:
        record = output.record
        match record:
            case ConflictArtifact():
                parties = ",".join(self.party(party) for party in record.parties)
                versions = f" expected={record.expected_version}" if record.expected_version else ""
                versions += f" known={record.known_version}" if record.known_version else ""
                again = f" recurrence={record.recurrence}" if record.runbook else ""
                again += f" runbook={record.runbook}" if record.runbook else ""
                return f"!! {record.kind} {record.action} next={record.next_step}{versions}{again} parties={parties}"
            case ConflictResolved():
                return f"!! {record.conflict} resolved by {record.by}: {record.note}".rstrip(": ")
            case DeadLetter():
                return f"xx {record.code} {record.topic}@{record.offset}: {record.excerpt}".rstrip(": ")
            case SessionClosed():
                return f"-> {record.session} SessionClosed {record.reason}"
            case SessionOpened() | WorkItem() | Notice():
                number = f"-> {record.session} #{record.number}"
                return f"{number} {type(record).__name__} {self.fields(record, {'lapse_ms', 'lease_ms'})}".rstrip()
            case Event():
                return f"{type(record).__name__} {self.fields(record, {'lease_ms', 'requests'})}".rstrip()
        raise AssertionError(record)

    def fields(self, record: Any, but: set[str]) -> str:
        """Ids first and bare, then what differs from its default."""
        if isinstance(record, WorkItem):
            but = but | {"requests", "heartbeat"}
        elif type(record).__name__ == "Ended":
            but = but - {"requests"}
        words = []
        defaults = dict(zip(reversed(record.__struct_fields__), reversed(record.__struct_defaults__), strict=False))
        for name in record.__struct_fields__:
            value = getattr(record, name)
            if name in UNSAID | but or (name in defaults and value == defaults[name]):
                continue
            if name in ("request", "run", "session", "change"):
                words.append(value)
            else:
                words.append(f"{name}={self.shown(name, value)}")
        if type(record).__name__ in ("WorkerOpened", "WorkerClosed"):
            words.insert(0, record.session)
        return " ".join(words)

    def shown(self, name: str, value: Any) -> str:
        match value:
            case bool():
                return "yes" if value else "no"
            case int() if name in ("token", "live_token"):
                return self.named(value)
            case tuple():
                return ",".join(bytes(each).decode() if isinstance(each, Raw) else str(each) for each in value)
            case Raw():
                return bytes(value).decode()
            case int() | None:
                return str(value)
        if name == "checkpoint":
            return bytes(value.data).decode()
        if name == "error":
            return f"{value.code}({value.message})"
        return str(value)

    def named(self, token: int) -> str:
        if token not in self.tokens:
            self.tokens.append(token)
        return f"t{self.tokens.index(token) + 1}"

    def party(self, party: Any) -> str:
        token = f"@{self.named(party.token)}" if party.token is not None else ""
        return f"{party.request}{token}"


def rendered(text: str) -> str:
    """The scenario with what really happens under each of its lines."""
    scenario = Scenario()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"  {said}" for said in scenario.play(line)]
    return "\n".join(lines) + "\n"
