"""One random history of a Kennel on a model of the machine: what can happen, and what must hold.

Kennel's core is real: deliveries, builds, leases, rows and passes. Time goes by only where somebody waits.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kennel_core import (
    builds,
    db,
    deployments,
    lease,
    resources,
    webhook,
)
from kennel_core.errors import BuildFailed, Cancelled, Fenced
from kennel_core.models import FINAL, Build, BuildStatus, Delivery, Deployment
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.receive import receive
from kennel_core.reconcile import converge, routes
from tests import deliveries
from tests.campaigns import look
from tests.campaigns.stage import Stage
from tests.model_host import FOREIGN

PLANS = ("ok", "site too", "does not build", "hangs", "sick", "broken")
ENDS_WELL = ("ok", "site too", "hangs")
LOST = ("its worker was lost", "waited a day")  # why a build may fail that nothing is wrong with
FOREIGN_ROUTE = {
    "@id": "others",
    "match": [{"host": ["other.localhost"]}],
    "handle": [{"handler": "static_response"}],
}
FOREIGN_UNIT = "kennel-of-somebody-else.service"


@dataclass(frozen=True)
class Sent:
    """A delivery: `commit` is None for what removes the ref."""

    number: int
    ref: str
    commit: str | None
    document: dict[str, Any] = field(repr=False)
    event: str


class History(Stage):
    """Every method but `end` is one thing that happens."""

    def __init__(self) -> None:
        super().__init__()
        self.machine.table.insert(0, FOREIGN_ROUTE)
        self.machine.units[FOREIGN_UNIT] = "active"
        self.plans: dict[str, str] = {}
        self.removed_after: dict[str, int] = defaultdict(int)  # the newest build when a ref went, by ref
        self.wants: dict[str, str | None] = {}  # the commit that was last told of a ref
        self.held: list[Sent] = []  # on their way, or not answered
        self.answered: list[Sent] = []
        self.running: list[Build] = []  # in the hands of workers
        self.serving: set[str] = set()  # hosts that answer, and have no reason not to

    # --- the forge and people

    def push(self, ref: str, plan: str, *, late: bool) -> None:
        commit = self._commit(plan)
        if ref.startswith("pr-"):
            number = int(ref.removeprefix("pr-"))
            document, event = deliveries.pull_request("synchronized", number, commit), "pull_request"
        else:
            document, event = deliveries.push(f"refs/heads/{ref}", commit), "push"
        self._send(ref, commit, document, event, late=late)

    def remove(self, ref: str, *, late: bool) -> None:
        if ref.startswith("pr-"):
            document = deliveries.pull_request("closed", int(ref.removeprefix("pr-")))
            self._send(ref, None, document, "pull_request", late=late)
        else:
            self._send(ref, None, deliveries.deleted(ref), "delete", late=late)

    def arrives(self, which: int) -> None:
        """Deliver what was held back, whatever came in between."""
        if self.held:
            self._deliver(self.held.pop(which % len(self.held)))

    def comes_again(self, which: int) -> None:
        """Deliver once more what was answered: it changes nothing."""
        if self.answered:
            before = self.rows()
            self.alive(lambda: self._receive(self.answered[which % len(self.answered)]))
            assert look.differences(before, self.rows()) == []

    def cancel(self, which: int) -> None:
        if found := [row.id for row in builds.recent(None, 10)]:
            self.alive(lambda: builds.cancel(found[which % len(found)], self.clock.time()))

    def retry(self, which: int) -> None:
        """An operator tries a build again, of a ref that is there."""
        if found := [
            row.id for row in builds.recent(None, 10) if row.status in FINAL and self.wants.get(row.ref)
        ]:
            self.alive(lambda: builds.retry(found[which % len(found)], self.clock.time()))

    # --- Kennel's processes

    def claim(self) -> None:
        """A worker takes a build, and is slow or dies; `finish` goes on."""

        def take() -> None:
            if build := lease.claim(self.clock.time()):
                self.running.append(build)

        self.alive(take)

    def finish(self, which: int) -> None:
        """A worker ends its build, if it still is its own."""
        if self.running:
            build = self.running.pop(which % len(self.running))
            self.alive(lambda: self._finish(build))

    def work(self) -> None:
        """A worker takes a build and ends it."""
        self.claim()
        if self.running:
            self.finish(len(self.running) - 1)

    def pass_(self) -> None:
        self.alive(lambda: converge(self.settings, self, self.host, self.backoff))

    def kill(self, effects_from_now: int) -> None:
        """Kill whatever runs at its n-th effect from now on."""
        self.kill_in = effects_from_now

    # --- the machine

    def crash(self, which: int) -> None:
        """A unit ends so often that systemd gives up, or an operator stops it."""
        if own := sorted(name for name in self.machine.units if name != FOREIGN_UNIT):
            unit = own[which % len(own)]
            (self.machine.crash if which % 2 else self.machine.end)(unit)
            self.serving = {host for host in self.serving if self.machine.answer(host)}

    def caddy_restarts(self) -> None:
        self.machine.lose_routes()
        self.machine.table.insert(0, FOREIGN_ROUTE)
        self.serving.clear()

    def caddy(self, *, up: bool) -> None:
        self.machine.has_caddy = up

    def systemd(self, *, up: bool) -> None:
        self.machine.has_systemd = up

    def takes_port(self, port: int) -> None:
        """Another program listens where nobody does."""
        self.machine.listeners.setdefault(port, FOREIGN)

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def jump(self, seconds: float) -> None:
        self.clock.jump(seconds)

    # --- what must hold

    def check(self) -> None:
        """What holds at every moment."""
        held: dict[int, int] = {}
        live = []
        query = "SELECT id, name, port, live FROM deployments"  # Peewee would take half of the time
        for number, name, port, text in db.database.execute_sql(query).fetchall():
            version = json.loads(text) if text else {}
            live += [version["host"]] if version and name == "api" else []
            for taken in {port, version.get("port")} - {None}:
                assert held.setdefault(taken, number) == number, f"port {taken} was given twice"
        assert self.machine.units.get(FOREIGN_UNIT) == "active", "a foreign unit was touched"
        assert FOREIGN_ROUTE in self.machine.table, "a foreign route was touched"
        for host in sorted(self.serving):
            assert self.machine.answer(host), f"{host} was served, and is not any more"
        self.serving |= {host for host in live if self.machine.answer(host)}

    def end(self) -> None:
        """Faults stop: at most two passes put everything right, and a third does nothing."""
        self.kill_in, self.running = None, []
        self.caddy(up=True)
        self.systemd(up=True)
        self.start_kennel()
        while self.held:
            self._deliver(self.held.pop(0))
        self.plans = {commit: "ok" if plan == "hangs" else plan for commit, plan in self.plans.items()}
        for _ in range(100):
            self.wait(31)  # leases run out, messages count as lost
            self.pass_()
            self.check()
            while self.rung:
                self.rung.pop()
                self.work()
            if not Build.select().where(Build.status << [BuildStatus.QUEUED, BuildStatus.BUILDING]).exists():
                break
        self.wait(700)  # who crashed is forgiven
        for _ in range(2):
            self.pass_()
        before, machine = self.rows(), repr(self.machine)
        self.wrote = []
        self.pass_()
        assert set(self.wrote) <= {"commit"}, f"a third pass had effects: {self.wrote}"
        assert look.differences(before, self.rows()) == [], "a third pass wrote"
        assert repr(self.machine) == machine, "a third pass changed something"
        self.check()
        self._check_end()

    def _check_end(self) -> None:
        for ref, commit in self.wants.items():
            own = list(Build.select().where(Build.ref == ref).order_by(Build.id))
            assert all(build.status in FINAL for build in own), f"a build of {ref} has not ended"
            rows = list(Deployment.select().where(Deployment.ref == ref))
            if commit is None:
                assert rows == [], f"{ref} is gone, and rows of it are not"
                continue
            newest = own[-1]
            assert newest.commit == commit, f"{ref} was pushed, and is lost"
            self._check_status(newest)
            live = [
                build
                for build in own
                if build.status == BuildStatus.DONE and build.id > self.removed_after[ref]
            ]
            expected = {live[-1].id} if live else set()
            assert {row.live["build"] for row in rows} == expected, f"{ref} runs another build"
            for row in rows:
                assert row.live == deployments.snapshot(row), f"{row.host} is still being rolled out"
                assert self.machine.answer(row.host) == (row.command or [row.store_path])[0], row.host
        named = deployments.units()
        assert self.machine.units.keys() - {FOREIGN_UNIT} == named == resources.units().keys()
        led = {
            host
            for found in routes.entries(self.machine.table, self.machine.files).values()
            for host in found.hosts
        }
        hosts = {name for row in Deployment.select() for name in (row.host, row.alias_host) if name}
        assert led == hosts, "routes are not those of the rows"
        assert db.database.execute_sql("SELECT count(*) FROM log_chunks").fetchone() == (0,)

    def _check_status(self, build: Build) -> None:
        error, plan = build.error or "", self.plans[build.commit]
        if build.status == BuildStatus.CANCELLED:
            assert "operator" in error, f"build {build.id} was withdrawn: {error}"
        elif build.status == BuildStatus.FAILED and plan in ENDS_WELL:
            excused = error.startswith(LOST) or "did not come up within" in error or "no port" in error
            assert excused or "gave up" in error or "was not healthy" in error, (
                f"build {build.id} failed: {error}"
            )
        else:
            assert (build.status == BuildStatus.DONE) == (plan in ENDS_WELL), (
                f"{build.status}, {plan}: {error}"
            )

    def _commit(self, plan: str) -> str:
        commit = f"{len(self.plans) + 1:040x}"
        self.plans[commit] = plan
        (self.store / commit).mkdir()
        self.machine.programs[f"{self.store}/{commit}/bin/api"] = plan if plan in ("sick", "broken") else "ok"
        return commit

    def _send(self, ref: str, commit: str | None, document: dict, event: str, *, late: bool) -> None:
        sent = Sent(
            len(self.answered) + len(self.held) + len(self.plans) * 1000, ref, commit, document, event
        )
        if late:
            self.held.append(sent)
        else:
            self._deliver(sent)

    def _deliver(self, sent: Sent) -> None:
        newest = Build.select(Build.id).order_by(Build.id.desc()).first()
        answered = self.alive(lambda: self._receive(sent))
        if Delivery.select().where(Delivery.delivery_id == _id(sent)).exists():
            self.answered.append(sent)
            self.wants[sent.ref] = sent.commit
            if sent.commit is None:
                self.removed_after[sent.ref] = newest.id if newest else 0
                self.serving = {host for host in self.serving if f"-{sent.ref}." not in host}
        else:
            assert not answered, "a delivery was answered, and is not noted"
            self.held.append(sent)

    def _receive(self, sent: Sent) -> None:
        body = deliveries.encoded(sent.document)
        headers = deliveries.headers(self.secret, body, sent.event, _id(sent))
        found = {name: value for name, value in headers.items() if name in webhook.HEADERS}
        receive(found, body, self.settings, self, self.clock.time())

    def _finish(self, build: Build) -> None:
        now, plan = self.clock.time(), self.plans[build.commit]
        if plan == "hangs":
            return
        before = self.rows()
        try:
            try:
                lease.append_log(build, [("build", "building\n")])
                lease.check(build)
                lease.succeed(build, _outputs(self.store, build.commit, plan), self.settings, now)
            except Cancelled as exc:
                lease.cancelled(build, str(exc), now)
            except BuildFailed as exc:
                lease.fail(build, str(exc), now)
        except Fenced:
            assert look.differences(before, self.rows()) == [], "who lost the lease wrote"
        else:
            self.reconcile()


def _id(sent: Sent) -> str:
    return f"00000000-0000-4000-8000-{sent.number:012}"


def _outputs(store: Path, commit: str, plan: str) -> Outputs:
    if plan == "does not build":
        raise BuildFailed("build", "it does not compile")
    api = ServiceOutput(
        name="api",
        store_path=f"{store}/{commit}",
        command=[f"{store}/{commit}/bin/api"],
        health_path="/",
        health_timeout=5,
    )
    sites = [SiteOutput(name="docs", store_path=f"{store}/{commit}")] if plan == "site too" else []
    return Outputs(config_path=str(store), services=[api], sites=sites)
