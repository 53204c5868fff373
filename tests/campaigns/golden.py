"""The golden scenario: what happens to a repository from its first push to its end, on real neighbours.

`Golden.lap` plays it step by step. A step may be killed at one of its effects; then Kennel is started again
and given two passes. After every step the state is compared with that of a lap in which nothing was killed.
The outputs of builds are made up, since a real build would take most of the time; `pipeline` is real else.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kennel_core import db, effects, lease, migrations, pipeline, projects, resources, webhook
from kennel_core.adapters.systemd import Systemd
from kennel_core.errors import NotFound
from kennel_core.models import Build, BuildStatus, Resource
from kennel_core.naming import digest
from kennel_core.receive import receive
from kennel_core.reconcile import converge
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_core.settings import Settings
from tests import deliveries
from tests.campaigns import forked, look, versions
from tests.servers.caddy import CaddyServer
from tests.servers.postgres import KENNEL_ROLE, PostgresServer
from tests.servers.systemd import PrivateSystemd
from tests.waiting import until

HOSTS = [
    f"shop-{item}-{slug}.localhost" for item in ("api", "docs", "blog") for slug in ("main", "pr-7", "dev")
] + [f"shop-{slug}.localhost" for slug in ("main", "pr-7", "dev")]


class Bell:
    """Messages that nobody but the scenario takes."""

    def __init__(self) -> None:
        self.rung = 0

    def build(self, build_id: int) -> None:
        with effects.Effect("publish"):
            self.rung += 1

    def reconcile(self) -> None:
        with effects.Effect("publish"):
            pass

    report = reconcile


@dataclass(frozen=True)
class Step:
    """`act` is done again when it was killed, as a forge or a person would."""

    name: str
    act: Callable[[], None]
    serves: bool = True  # https://shop-api-main answers before, after, and whatever is killed


@dataclass
class Lap:
    """What came of a lap: what each step did and left, or what differed."""

    effects: dict[str, tuple[str, ...]] = field(default_factory=dict)
    states: dict[str, look.Seen] = field(default_factory=dict)
    killed: dict[str, str] = field(default_factory=dict)  # at which effect, by step
    problems: list[str] = field(default_factory=list)


class Golden:
    """The scenario in a directory of its own, which it empties before each lap."""

    def __init__(self, settings: Settings, caddy: CaddyServer, postgres: PostgresServer, home: Path) -> None:
        self.settings = settings
        self.postgres = postgres
        self.caddy = caddy
        self.home = home
        self.store = home / "store"
        self.store.mkdir(mode=0o755)
        self._key = ""
        caddy.ask.allowed.update(HOSTS)
        self.steps = [
            Step("push", lambda: self._push("A", "main"), serves=False),
            Step("second push", lambda: self._push("B", "main")),
            Step("push that does not build", lambda: self._push("broken", "main")),
            Step("push that is not healthy", lambda: self._push("sick", "main")),
            Step("pull request opened", lambda: self._pull_request("opened", "C")),
            Step("pull request updated", lambda: self._pull_request("synchronized", "D")),
            Step("pull request closed", lambda: self._pull_request("closed", "D")),
            Step("branch pushed", lambda: self._push("E", "dev")),
            Step("branch deleted", lambda: self._deliver("delete", deliveries.deleted("dev"), "delete")),
            Step("rollback by push", lambda: self._push("A", "main", again="again")),
            Step("project removed", self._remove, serves=False),
            Step("data given up", self._confirm, serves=False),
        ]

    # --- laps

    def lap(self, kill_at: Mapping[str, int], reference: Lap | None = None) -> Lap:
        """Play the scenario, killing the steps that are named at these moments.

        It ends at the first step whose state is not that of `reference`; `problems` tells.
        """
        lap = Lap()
        self.reset()
        for step in self.steps:
            try:
                self._play(step, lap, kill_at.get(step.name), reference)
            except AssertionError as exc:
                lap.problems.append(f"{step.name}, {lap.killed.get(step.name, 'not killed')}: {exc}")
            if lap.problems:
                break
        return lap

    def _play(self, step: Step, lap: Lap, kill_at: int | None, reference: Lap | None) -> None:
        ended = forked.run(lambda: self._do(step), self.home, kill_at)
        lap.effects[step.name] = ended.effects
        where = step.name
        if ended.killed:
            lap.killed[step.name] = ended.effects[-1]
            where = f"{step.name}, killed {ended.effects[-1]} (moment {kill_at})"
            if step.serves and not self.serves():
                lap.problems.append(f"{where}: the version that was live is not served any more")
        after = forked.run(lambda: self._restart(step, again=ended.killed), self.home)
        lap.states[step.name], wrote = after.value
        if wrote:
            lap.problems.append(f"{where}: a third pass had effects: {wrote}")
        if reference is not None:
            expected = reference.states[step.name]
            lap.problems += [f"{where}: {line}" for line in look.differences(expected, after.value[0])]

    def reset(self) -> None:
        """Begin from nothing."""
        with Systemd(self.settings.bus) as systemd:
            for name in systemd.units():
                systemd.stop(name, 30)
        self.caddy.reset()
        self.postgres.clean()
        self.caddy.ask.allowed.update(HOSTS)
        for path in (self.settings.state_dir, self.settings.runtime_dir, self.settings.gcroots_dir):
            shutil.rmtree(path, ignore_errors=True)
        forked.run(self._prepare, self.home)
        self._key = self._key or self.settings.secret_key_file.read_text()

    def serves(self) -> bool:
        """Whether the service of main answers."""
        try:
            return self.caddy.request("shop-api-main.localhost").status == 200
        except ConnectionError:  # an older Caddy that has just reloaded
            return until(lambda: self.caddy.request("shop-api-main.localhost").status == 200, timeout=5)

    # --- in the child

    def _prepare(self) -> None:
        db.configure(self.settings.database)
        if self._key:  # so that names and digests are those of the laps before
            db.create_private(self.settings.secret_key_file, self._key.encode())
        projects.create_secret_key(self.settings.secret_key_file)
        migrations.migrate(self.settings.database)
        with db.connection():
            projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")

    def _do(self, step: Step) -> None:
        with self._kennel():
            step.act()
            self._work()
            self._pass()

    def _restart(self, step: Step, *, again: bool) -> tuple[look.Seen, list[str]]:
        """Start Kennel again, late enough for leases and messages to count as lost; two passes.

        Returns the state, and the effects of a third pass.
        """
        with self._kennel():
            if again:
                Build.update(lease_until=1.0).where(Build.status == BuildStatus.BUILDING).execute()
                Build.update(enqueued_at=None).where(Build.status == BuildStatus.QUEUED).execute()
                step.act()
                self._pass()
                self._work()
                self._pass()
            before = look.seen(self.settings, self._host, exact=True)
            wrote: list[str] = []
            effects.watch(lambda name, when: wrote.append(name) if when == "after" else None)
            self._pass()
            after = look.seen(self.settings, self._host, exact=True)
            wrote = sorted(set(wrote) - {"commit"}) + look.differences(before, after)
            return look.seen(self.settings, self._host), wrote

    def _kennel(self) -> Any:
        db.configure(self.settings.database)
        self._bell, self._host, self._backoff = Bell(), LocalHost(self.settings), Backoff()
        pipeline._phases = lambda job: versions.phases(job, self.store)
        return db.connection()

    def _pass(self) -> None:
        converge(self.settings, self._bell, self._host, self._backoff)

    def _work(self) -> None:
        """Be the builder that was rung for."""
        while self._bell.rung:
            self._bell.rung -= 1
            build = lease.claim(time.time())
            if build is not None:
                pipeline.run(build, self.settings)
                self._bell.reconcile()

    # --- what people and the forge do

    def _push(self, version: str, branch: str, again: str = "") -> None:
        document = deliveries.push(f"refs/heads/{branch}", versions.commit(version))
        self._deliver(f"push {version}{again}", document, "push")

    def _pull_request(self, action: str, version: str) -> None:
        self._deliver(action, deliveries.pull_request(action, 7, versions.commit(version)), "pull_request")

    def _deliver(self, name: str, document: dict, event: str) -> None:
        secret = projects.webhook_secret(projects.find("acme/shop"), self.settings.secret_key_file)
        body = deliveries.encoded(document)
        sent = deliveries.headers(secret, body, event, f"00000000-0000-4000-8000-{digest(name):0>12}")
        found = {name: value for name, value in sent.items() if name in webhook.HEADERS}
        receive(found, body, self.settings, self._bell, time.time())

    def _remove(self) -> None:
        try:
            projects.remove(projects.find("acme/shop"))
        except NotFound:
            return  # it was done before the kill

    def _confirm(self) -> None:
        rows = Resource.select().where(Resource.kind != resources.UNIT)
        resources.confirm([row.id for row in rows], time.time())


def moments(reference: Lap, steps: Iterator[str] | None = None) -> list[tuple[str, int]]:
    """Name every moment at which a step can be killed."""
    chosen = steps or reference.effects
    return [(step, moment) for step in chosen for moment in range(len(reference.effects[step]))]


def laps(chosen: list[tuple[str, int]]) -> list[dict[str, int]]:
    """Put moments of different steps into as few laps as possible."""
    left: dict[str, list[int]] = {}
    for step, moment in chosen:
        left.setdefault(step, []).append(moment)
    count = max(map(len, left.values()), default=0)
    return [{step: found[lap] for step, found in left.items() if lap < len(found)} for lap in range(count)]


def settings(
    plain: Settings, systemd: PrivateSystemd, caddy: CaddyServer, postgres: PostgresServer
) -> Settings:
    """Settings with these neighbours, and a Valkey for each ref."""
    return plain.model_copy(
        update={
            "bus": systemd.bus,
            "journal_dir": systemd.journal,
            "caddy_admin": caddy.admin,
            "drain_timeout": 0.05,
            **postgres.settings,
            "postgres": f"host=127.0.0.1 port={postgres.port} user={KENNEL_ROLE}",
            "postgres_auth": "password",
            "valkey": "instance",
            "valkey_program": "redis-server",
        }
    )
