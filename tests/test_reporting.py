"""What a real forge is asked and told: statuses, the comment, approval, and commands."""

import time
from collections import Counter
from pathlib import Path

import pytest

from kennel_core import builds, db, deployments, lease, projects, pull_requests, receive
from kennel_core.adapters.forge import Forge
from kennel_core.errors import Unavailable
from kennel_core.models import AuditEntry, Build, Command, Deployment, ForgeReport, PullRequest
from kennel_core.outputs import Outputs, SiteOutput
from kennel_core.reconcile.reporting import Reported, Reporter
from kennel_core.reports.comment import MARKER
from kennel_core.settings import Settings
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.gitea import BOT, OWNER, STRANGER, GiteaServer

BUILD, DEPLOY = "kennel/build", "kennel/deploy"


class Counting(Forge):
    """The client, which counts what it is asked for."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked: Counter[str] = Counter()
        send = self._api._send

        def counted(method: str, path: str, *rest: object, **more: object) -> object:
            self.asked[method] += 1
            return send(method, path, *rest, **more)

        self._api._send = counted


class Loop:
    """A repository on the forge and its project, without hooks: deliveries are made by the test."""

    def __init__(self, gitea: GiteaServer, settings: Settings, tmp_path: Path) -> None:
        self.gitea, self.settings = gitea, settings
        tmp_path.mkdir(exist_ok=True)
        self.name = gitea.repository()
        self.tree = gitea.tree(self.name, tmp_path / "tree")
        self.tree.commit({"README.md": "hello"})
        self.main = self.tree.push()
        self.project = projects.add(self.name, gitea.clone_url(self.name), "main")
        self.doorbell = RecordingDoorbell()
        self.store = tmp_path / "store"
        self.store.mkdir()
        self.forge = Counting(settings)
        self.reporter = Reporter(settings, lambda _settings: self.forge)

    def send(self, document: dict, event: str) -> dict:
        body = deliveries.encoded(document)
        secret = projects.webhook_secret(self.project, self.settings.secret_key_file)
        headers = deliveries.headers(secret, body, event)
        return dict(receive.receive(headers, body, self.settings, self.doorbell, time.time()).body)

    def push(self, commit: str, ref: str = "main") -> dict:
        return self.send(deliveries.push(f"refs/heads/{ref}", commit, self.name), "push")

    def branch(self, name: str) -> str:
        self.tree.git("checkout", "--quiet", "-B", name)
        self.tree.commit({name: name})
        return self.tree.push(name)

    def proposes(self, number: int, commit: str, action: str = "opened", **changes: object) -> dict:
        made = {"author": OWNER} | changes
        return self.send(deliveries.pull_request(action, number, commit, self.name, **made), "pull_request")

    def pull(self, topic: str = "topic", **changes: object) -> tuple[int, str]:
        """Open a pull request within the repository; returns its number and commit."""
        commit = self.branch(topic)
        number = self.gitea.pull_request(self.name, topic)
        self.proposes(number, commit, **changes)
        return number, commit

    def says(self, number: int, text: str, user: str = OWNER) -> int:
        comment = self.gitea.comment(self.name, number, text, user)
        document = deliveries.comment(text, number, comment, user, self.name)
        self.send(document, "issue_comment")
        return comment

    def report(self) -> Reported:
        return self.reporter.report(self.doorbell)

    def works(self, *names: str, live: bool = True, previews: bool = True) -> Build:
        """Let a builder and a pass do their work for what is queued."""
        build = lease.claim(time.time())
        assert build is not None
        sites = []
        for name in names or ("site",):
            path = self.store / f"{build.id}-{name}"
            path.mkdir()
            sites.append(SiteOutput(name=name, store_path=str(path)))
        outputs = Outputs(
            config_path=str(self.store), sites=sites, preview_deployments=previews, resources=[]
        )
        lease.succeed(build, outputs, self.settings, time.time())
        if live:
            self.goes_live(build)
        return build

    def goes_live(self, build: Build) -> None:
        with db.write():
            assert builds.went_live(build.id, time.time())
            deployments.went_live(build)

    def fails(self, error: str, *log: tuple[str, str]) -> Build:
        build = lease.claim(time.time())
        assert build is not None
        lease.append_log(build, log)
        lease.fail(build, error, time.time())
        return build

    def statuses(self, commit: str) -> dict[str, str]:
        return {context: state for context, (state, *_rest) in self.gitea.statuses(self.name, commit).items()}

    def comment(self, number: int) -> str:
        """The text of Kennel's one comment."""
        (found,) = [one for one in self.gitea.comments(self.name, number) if one["user"]["login"] == BOT]
        return str(found["body"])

    def comments(self, number: int) -> int:
        return len([one for one in self.gitea.comments(self.name, number) if one["user"]["login"] == BOT])


@pytest.fixture
def loop(gitea: GiteaServer, forge_settings: Settings, database: Path, tmp_path: Path) -> Loop:
    settings = forge_settings.model_copy(update={"domain": "kennel.example.org"})
    return Loop(gitea, settings, tmp_path)


def test_a_push_is_pending_then_built_then_deployed(loop: Loop) -> None:
    answer = loop.push(loop.main)
    assert loop.doorbell.rung == [answer["build"], "report"]

    loop.report()
    state, description, url = loop.gitea.statuses(loop.name, loop.main)[BUILD]
    assert (state, description) == ("pending", "waits for a builder")
    assert url == f"https://kennel.example.org/builds/{answer['build']}/log?follow=true"

    loop.works()
    loop.report()
    found = loop.gitea.statuses(loop.name, loop.main)
    assert {context: state for context, (state, *_) in found.items()} == {BUILD: "success", DEPLOY: "success"}
    short = loop.project.name
    assert found[DEPLOY][1] == f"deployed to https://{short}-site-main.localhost"
    assert loop.forge.asked.total() <= 4


def test_what_the_forge_has_is_not_sent_again(loop: Loop) -> None:
    number, _commit = loop.pull()
    loop.push(loop.main)
    loop.report()
    loop.works()
    loop.works()
    loop.report()
    assert MARKER in loop.comment(number)
    before = loop.forge.asked.total()

    for _pass in range(3):
        assert loop.report() == Reported()
    assert loop.forge.asked.total() == before


def test_a_build_that_fails_says_why_on_its_commit(loop: Loop) -> None:
    loop.push(loop.main)
    build = loop.fails("build:api: package api failed: no such file\nsecond line")
    loop.report()

    state, description, _url = loop.gitea.statuses(loop.name, loop.main)[BUILD]
    assert (state, description) == ("failure", "build:api: package api failed: no such file")
    assert DEPLOY not in loop.statuses(loop.main)
    assert builds.get(build.id).status == "failed"


def test_a_rollout_that_fails_leaves_the_build_a_success(loop: Loop) -> None:
    loop.push(loop.main)
    build = loop.works(live=False)
    with db.write():
        deployments.roll_back(build)
        builds.rollout_failed(build.id, "deploy: site did not become healthy", time.time())
    loop.report()
    assert loop.statuses(loop.main) == {BUILD: "success", DEPLOY: "failure"}


def test_several_services_have_a_status_each(loop: Loop) -> None:
    loop.push(loop.main)
    loop.works("api", "docs")
    loop.report()
    assert loop.statuses(loop.main) == {
        BUILD: "success",
        f"{DEPLOY} (api)": "success",
        f"{DEPLOY} (docs)": "success",
    }


def test_a_superseded_commit_does_not_stay_pending(loop: Loop) -> None:
    loop.push(loop.main)
    loop.report()
    loop.tree.commit({"a": "b"})
    newer = loop.tree.push()
    loop.push(newer)
    loop.report()
    assert loop.statuses(loop.main) == {BUILD: "warning"}
    assert loop.statuses(newer) == {BUILD: "pending"}


def test_a_branch_and_a_pull_request_at_one_commit_share_its_statuses(loop: Loop) -> None:
    number, commit = loop.pull()
    loop.push(commit, "topic")
    loop.report()
    loop.works()
    loop.fails("build:x: broken")
    loop.report()
    assert loop.statuses(commit)[BUILD] == "failure"
    assert {build.ref for build in Build.select()} == {"topic", f"pr-{number}"}


def test_the_comment_of_a_pull_request_is_written_once_and_edited(loop: Loop) -> None:
    number, commit = loop.pull()
    loop.report()
    assert loop.comments(number) == 0

    loop.works()
    loop.report()
    first = loop.comment(number)
    host = f"https://{loop.project.name}-site-pr-{number}.localhost"
    assert first.startswith(MARKER)
    for part in (host, commit[:10], "live", "/builds/1/log?follow=true"):
        assert part in first

    newer = loop.branch("topic")
    loop.proposes(number, newer, "synchronized")
    loop.report()
    assert loop.comment(number) == first  # while it is built, what is live is what was

    loop.works()
    loop.report()
    assert loop.comments(number) == 1
    assert newer[:10] in loop.comment(number)


def test_a_failure_in_the_comment_has_the_phase_the_sentence_and_the_last_lines(loop: Loop) -> None:
    number, commit = loop.pull()
    loop.report()
    log = [("clone", "cloning\n"), ("build:api", "".join(f"line {n}\n" for n in range(10_000)))]
    loop.fails("build:api: package api failed: boom", *log)
    loop.report()

    text = loop.comment(number)
    for part in (commit[:10], "build&#58;api", "package api failed&#58; boom", "line 9999"):
        assert part in text
    assert "line 9000" not in text
    assert "cloning" not in text
    assert len(text) < 20_000


def test_a_closed_pull_request_says_what_was_removed(loop: Loop) -> None:
    number, commit = loop.pull()
    loop.report()
    loop.works("api", "docs")
    loop.report()
    loop.gitea.close(loop.name, number)
    loop.proposes(number, commit, "closed")
    loop.report()

    text = loop.comment(number)
    assert "torn down" in text
    assert "<code>api</code>" in text
    assert "<code>docs</code>" in text
    assert loop.report() == Reported()
    assert not Deployment.select().exists()

    loop.proposes(number, commit, "reopened")
    loop.report()
    loop.works("api")
    loop.report()
    assert "live" in loop.comment(number)
    assert loop.comments(number) == 1


def test_a_comment_that_somebody_deleted_is_written_anew(loop: Loop) -> None:
    number, _commit = loop.pull()
    loop.report()
    loop.works()
    loop.report()
    (report,) = ForgeReport.select().where(ForgeReport.target == f"comment:{number}")
    loop.gitea.call("DELETE", f"/repos/{loop.name}/issues/comments/{report.remote_id}")
    loop.proposes(number, loop.branch("topic"), "synchronized")
    loop.report()
    loop.works()
    loop.report()
    assert loop.comments(number) == 1


def test_the_comment_is_found_again_and_a_strangers_is_not_taken_for_it(loop: Loop) -> None:
    number, _commit = loop.pull()
    fake = loop.gitea.comment(loop.name, number, f"{MARKER}\n<!-- kennel:0 -->\nnot Kennel", STRANGER)
    loop.report()
    loop.works()
    loop.report()
    assert loop.comments(number) == 1
    ForgeReport.delete().execute()  # the database was put back from a backup
    loop.report()
    assert loop.comments(number) == 1
    texts = {one["id"]: one["body"] for one in loop.gitea.comments(loop.name, number)}
    assert "not Kennel" in texts[fake]


def test_no_preview_is_built_and_reported_and_not_deployed(loop: Loop) -> None:
    number, commit = loop.pull()
    loop.report()
    build = loop.works(previews=False, live=False)
    loop.goes_live(build)
    loop.report()
    assert loop.statuses(commit) == {BUILD: "success", DEPLOY: "success"}
    assert "no previews" in loop.comment(number)
    assert not Deployment.select().exists()


# --- the gate ---


def test_a_forks_pull_request_waits_and_is_built_once_a_writer_approves_the_commit(
    loop: Loop, tmp_path: Path
) -> None:
    fork = loop.gitea.fork(loop.name)
    theirs = loop.gitea.tree(fork, tmp_path / "theirs", STRANGER)
    theirs.git("pull", "--quiet", "origin", "main")
    theirs.git("checkout", "--quiet", "-b", "evil")
    commit = theirs.commit({"x": "y"})
    theirs.push("evil")
    number = loop.gitea.pull_request(loop.name, f"{STRANGER}:evil", user=STRANGER)
    loop.proposes(number, commit, author=STRANGER, fork=True)
    loop.report()

    assert not Build.select().exists()
    state, description, _url = loop.gitea.statuses(loop.name, commit)[BUILD]
    assert state == "pending"
    assert "approve" in description
    assert f"/kennel approve {commit[:10]}" in loop.comment(number)

    loop.says(number, "/kennel approve", STRANGER)
    loop.report()
    assert not Build.select().exists()

    approving = loop.says(number, "/kennel approve")
    loop.report()
    assert [(build.ref, build.commit) for build in Build.select()] == [(f"pr-{number}", commit)]
    assert (BOT, "+1") in loop.gitea.reactions(loop.name, approving)
    loop.works()
    loop.report()
    assert loop.statuses(commit) == {BUILD: "success", DEPLOY: "success"}

    newer = theirs.commit({"x": "z"})
    theirs.push("evil")
    loop.proposes(number, newer, "synchronized", author=STRANGER, fork=True)
    loop.report()
    assert Build.select().count() == 1
    assert loop.statuses(newer) == {BUILD: "pending"}
    text = loop.comment(number)
    assert commit[:10] in text
    assert f"/kennel approve {newer[:10]}" in text
    assert {(entry.who, entry.what) for entry in AuditEntry.select()} >= {
        (STRANGER, "approve"),
        (OWNER, "approve"),
    }


def test_an_author_who_may_only_read_waits_as_a_fork_does(loop: Loop) -> None:
    number, commit = loop.pull(author=STRANGER)
    loop.report()
    assert not Build.select().exists()
    assert loop.statuses(commit) == {BUILD: "pending"}
    assert PullRequest.get().why.startswith("its author may not write")
    pull_requests.approve(loop.project, number, commit[:10], "root@host", time.time())
    loop.report()
    assert Build.get().commit == commit


def test_an_approval_is_for_the_commit_that_was_there_when_it_was_written(loop: Loop) -> None:
    number, _commit = loop.pull(author=STRANGER)
    loop.report()
    comment = loop.says(number, "/kennel approve")
    newer = loop.branch("topic")
    loop.proposes(number, newer, "synchronized", author=STRANGER)
    loop.report()

    assert not Build.select().exists()
    assert (BOT, "-1") in loop.gitea.reactions(loop.name, comment)
    assert "look at that commit" in Command.get().outcome


def test_a_preview_limit_holds_back_until_another_one_is_closed(loop: Loop) -> None:
    loop.settings = loop.settings.model_copy(update={"preview_limit": 1})
    loop.reporter = Reporter(loop.settings)
    first, one = loop.pull("one")
    second, two = loop.pull("two")
    loop.report()
    assert [build.commit for build in Build.select()] == [one]
    assert loop.statuses(two) == {BUILD: "pending"}
    assert "no more may be" in loop.comment(second)

    loop.proposes(first, one, "closed")
    loop.report()
    assert {build.commit for build in Build.select()} == {one, two}


# --- commands ---


def live_pull(loop: Loop) -> tuple[int, str]:
    number, commit = loop.pull()
    loop.report()
    loop.works()
    loop.report()
    return number, commit


def test_redeploy_rolls_out_again_what_runs_and_tries_a_failed_build_again(loop: Loop) -> None:
    number, commit = live_pull(loop)
    comment = loop.says(number, "/kennel redeploy")
    loop.report()
    again = Build.select().order_by(Build.id.desc()).first()
    assert (again.commit, again.status, again.outputs["origin"]) == (commit, "built", 1)
    assert (BOT, "+1") in loop.gitea.reactions(loop.name, comment)
    assert "pass" in loop.doorbell.rung

    with db.write():
        builds.rollout_failed(again.id, "deploy: broken", time.time())
    loop.says(number, "/kennel redeploy")
    loop.report()
    newest = Build.select().order_by(Build.id.desc()).first()
    assert newest.status == "queued"
    assert newest.id in loop.doorbell.rung


def test_rollback_goes_back_to_the_build_before(loop: Loop) -> None:
    number, first = live_pull(loop)
    second = loop.branch("topic")
    loop.proposes(number, second, "synchronized")
    loop.report()
    loop.works()
    loop.says(number, "/kennel rollback")
    loop.report()

    back = Build.select().order_by(Build.id.desc()).first()
    assert (back.commit, back.outputs["origin"]) == (first, 1)
    loop.goes_live(back)
    loop.report()
    assert first[:10] in loop.comment(number)
    refused = loop.says(number, "/kennel rollback")
    loop.report()
    assert (BOT, "-1") in loop.gitea.reactions(loop.name, refused)
    assert "no earlier build" in loop.comment(number)


def test_stop_and_start_let_a_preview_sleep_and_wake(loop: Loop) -> None:
    number, _commit = live_pull(loop)
    loop.says(number, "/kennel stop")
    loop.report()
    assert loop.project.refs.where(loop.project.refs.model.stopped_at.is_null(is_null=False)).exists()
    loop.says(number, "/kennel start")
    loop.report()
    assert not loop.project.refs.where(loop.project.refs.model.stopped_at.is_null(is_null=False)).exists()


@pytest.mark.parametrize("text", ["/kennel help", "/kennel", "/kennel dance", "/kennel stop now"])
def test_help_and_unknown_words_are_answered_in_the_comment(loop: Loop, text: str) -> None:
    number, _commit = live_pull(loop)
    loop.says(number, text)
    loop.report()
    assert "go back to the build before" in loop.comment(number)
    assert loop.comments(number) == 1


def test_logs_are_shown_in_the_comment(loop: Loop) -> None:
    number, _commit = loop.pull()
    loop.report()
    loop.fails("build:x: broken", ("build:x", "first\nthe last words\n"))
    loop.says(number, "/kennel logs")
    loop.report()
    assert loop.comment(number).count("the last words") == 2


@pytest.mark.parametrize("word", ["redeploy", "rollback", "stop", "approve", "logs", "help", "dance"])
def test_a_stranger_gets_no_answer_and_changes_nothing(loop: Loop, word: str) -> None:
    number, _commit = live_pull(loop)
    before = (loop.comment(number), Build.select().count())
    comment = loop.says(number, f"/kennel {word}", STRANGER)
    loop.report()
    assert loop.gitea.reactions(loop.name, comment) == []
    assert (loop.comment(number), Build.select().count()) == before
    assert loop.comments(number) == 1
    entry = AuditEntry.select().order_by(AuditEntry.id.desc()).first()
    assert (entry.who, entry.what, entry.outcome.split(":")[0]) == (STRANGER, word, "refused")


def test_permission_is_asked_at_the_moment_of_the_command(loop: Loop) -> None:
    number, _commit = live_pull(loop)
    loop.gitea.allow(loop.name, STRANGER, "write")
    loop.says(number, "/kennel help", STRANGER)
    loop.report()
    assert Command.get().outcome == "help"
    loop.gitea.call("DELETE", f"/repos/{loop.name}/collaborators/{STRANGER}")
    loop.says(number, "/kennel stop", STRANGER)
    loop.report()
    assert not loop.project.refs.where(loop.project.refs.model.stopped_at.is_null(is_null=False)).exists()


def test_a_command_that_comes_twice_is_carried_out_once(loop: Loop) -> None:
    number, _commit = live_pull(loop)
    comment = loop.says(number, "/kennel redeploy")
    again = loop.send(
        deliveries.comment("/kennel redeploy", number, comment, OWNER, loop.name), "issue_comment"
    )
    loop.report()
    loop.report()
    assert again["status"] == "ignored"
    assert Build.select().count() == 2


# --- trouble ---


def test_a_forge_that_is_down_costs_only_the_delay(loop: Loop) -> None:
    loop.push(loop.main)
    down = loop.settings.model_copy(update={"forge_url": "http://127.0.0.1:9"})
    silent = Reporter(down)
    done = silent.report(loop.doorbell)
    assert len(done.errors) == 1
    loop.works()
    assert silent.report(loop.doorbell) == Reported()  # it is left alone for a while
    (report,) = ForgeReport.select()
    assert (report.tries, report.digest) == (1, None)
    assert report.next_at > time.time()

    ForgeReport.update(next_at=0).execute()
    loop.report()
    assert loop.statuses(loop.main) == {BUILD: "success", DEPLOY: "success"}


def test_a_forge_that_says_when_is_asked_then_and_not_before(loop: Loop) -> None:
    asked = []

    class Busy(Forge):
        def set_status(self, *_: object) -> None:
            asked.append(1)
            raise Unavailable("forge", "set a status", "429", retry_after=120)

    loop.push(loop.main)
    busy = Reporter(loop.settings, Busy)
    busy.report(loop.doorbell)
    loop.works()
    assert busy.report(loop.doorbell) == Reported()
    assert len(asked) == 1
    assert ForgeReport.get().next_at > time.time() + 100
    other = Reporter(loop.settings, Busy)  # another process: what was refused waits, the rest may be tried
    other.report(loop.doorbell)
    assert len(asked) == 2


@pytest.mark.parametrize("permission", ["read", "write"])
def test_a_bot_that_may_not_ask_for_permissions_lets_nobody_in(loop: Loop, permission: str) -> None:
    loop.gitea.allow(loop.name, BOT, permission)
    number, commit = loop.pull()
    loop.says(number, "/kennel approve")
    loop.report()
    assert not Build.select().exists()
    assert PullRequest.get().state == "waiting"
    assert "does not tell Kennel" in Command.get().outcome
    pull_requests.approve(loop.project, number, commit, "root@host", time.time())
    loop.report()
    assert Build.get().commit == commit


def test_a_commit_that_the_forge_does_not_know_hinders_no_other(loop: Loop) -> None:
    loop.push("a" * 40, "gone")
    loop.push(loop.main)
    done = loop.report()
    assert len(done.errors) == 1
    assert loop.statuses(loop.main) == {BUILD: "pending"}
    assert loop.report() == Reported()


def test_what_was_told_long_ago_is_forgotten_and_not_told_again(loop: Loop) -> None:
    loop.push(loop.main)
    loop.works()
    loop.report()
    week = 7 * 86_400.0
    ForgeReport.update(updated_at=ForgeReport.updated_at - week).execute()
    Build.update(finished_at=Build.finished_at - week).execute()
    before = loop.forge.asked.total()
    loop.reporter = Reporter(loop.settings, lambda _settings: loop.forge)
    assert loop.report() == Reported()
    assert not ForgeReport.select().exists()
    assert loop.forge.asked.total() == before


# --- many ---


def test_a_burst_of_pushes_is_told_with_few_requests_and_every_status_is_right(
    gitea: GiteaServer, forge_settings: Settings, database: Path, tmp_path: Path
) -> None:
    loops = [Loop(gitea, forge_settings, tmp_path / f"{n}") for n in range(8)]
    forge = loops[0].forge
    reporter = Reporter(forge_settings, lambda _settings: forge)
    commits: list[tuple[Loop, str]] = []
    for turn in range(5):
        for loop in loops:
            loop.tree.commit({"turn": str(turn)})
            commits.append((loop, loop.tree.push()))
            loop.push(commits[-1][1])
            if len(commits) % 7 == 0:
                reporter.report(loop.doorbell)
    while Build.select().where(Build.status == "queued").exists():
        number = Build.select().where(Build.status == "queued").order_by(Build.id).first()
        loop = next(one for one in loops if one.project.id == number.project_id)
        loop.works() if number.id % 5 else loop.fails("build:x: broken")
        reporter.report(loop.doorbell)
    while reporter.report(loops[0].doorbell) != Reported():
        pass

    built = Build.select().count()
    assert built == 40
    assert forge.asked.total() <= 4 * built
    for loop, commit in commits:
        build = Build.get(Build.commit == commit, Build.project == loop.project)
        expected = {
            "done": {BUILD: "success", DEPLOY: "success"},
            "failed": {BUILD: "failure"},
            "cancelled": {BUILD: "warning"},
        }[build.status]
        assert loop.statuses(commit) == expected


def test_a_report_over_200_previews_that_changed_nothing_makes_no_request(
    gitea: GiteaServer, forge_settings: Settings, database: Path, tmp_path: Path
) -> None:
    loop = Loop(gitea, forge_settings.model_copy(update={"preview_limit": 500}), tmp_path)
    for number in range(1, 201):
        loop.proposes(number, f"{number:040x}")
    PullRequest.update(trusted=True).execute()
    told: list[str] = []

    class Deaf(Forge):
        """Says yes to everything: what is measured is what comes before the request."""

        def set_status(self, *_: object) -> None:
            told.append("status")

        def comments(self, *_: object) -> list:
            return []

        def create_comment(self, *_: object) -> int:
            told.append("comment")
            return len(told)

    reporter = Reporter(loop.settings, Deaf)
    reporter.report(loop.doorbell)
    for _preview in range(200):
        loop.works()
    while reporter.report(loop.doorbell) != Reported():
        pass
    assert told.count("comment") == 200
    before = len(told)

    began = time.process_time()
    assert reporter.report(loop.doorbell) == Reported()
    assert time.process_time() - began < 2
    assert len(told) == before
