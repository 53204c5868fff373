"""What the forge should show, from the rows, and what it was told last."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from peewee import fn

from kennel_core import builds, derived, naming, pull_requests, sleeping
from kennel_core.environment import Environment, is_pull_request, of_ref, pull_request_ref
from kennel_core.models import Build, BuildStatus, Command, Deployment, ForgeReport, Project, PullRequest
from kennel_core.outputs import Outputs
from kennel_core.pull_requests import State
from kennel_core.reports import comment, status
from kennel_core.settings import Settings

REPORTED_S = 3 * 86_400.0  # what ended longer ago is not reported any more
SUPERSEDED = "superseded by a newer commit"

Reports = dict[tuple[int, str], ForgeReport]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something that the forge should have: a status, or the view that a comment shows."""

    project: Project
    target: str
    digest: str
    what: status.Status | comment.View


def statuses(settings: Settings, told: Reports, now: float) -> list[Wanted]:
    """Say which statuses commits should have, by project, oldest first.

    One that was announced and is not on its way any more gets an end.
    """
    by_project: dict[int, list[status.Built]] = defaultdict(list)
    projects: dict[int, Project] = {project.id: project for project in Project.select()}
    recent = Build.finished_at.is_null() | (Build.finished_at > now - REPORTED_S)
    for build in builds.without_log().where(recent).order_by(Build.id):
        by_project[build.project_id].append(_built(build, projects[build.project_id], settings))
    held: dict[int, list[status.Held]] = defaultdict(list)
    for row in PullRequest.select().where(PullRequest.open, PullRequest.state == State.WAITING):
        held[row.project_id].append(status.Held(row.commit, f"waits: {row.why}"))
    found: list[Wanted] = []
    for project_id, project in projects.items():
        shown = status.statuses(
            by_project[project_id], held[project_id], lambda number: log_url(settings, number), now
        )
        found += [_wanted_status(project, one) for one in shown]
    named = {(one.project.id, one.target) for one in found}
    for key, report in told.items():
        project_id, target = key
        if (report.digest or "").startswith("pending:") and key not in named and target.startswith("status:"):
            _kind, commit, context = target.split(":", 2)
            over = status.Status(commit, context, "warning", SUPERSEDED, "")
            found.append(_wanted_status(projects[project_id], over))
    return found


def _wanted_status(project: Project, one: status.Status) -> Wanted:
    target = f"status:{one.commit}:{one.context}"
    return Wanted(project, target, f"{one.state}:{_digest(asdict(one))}", one)


def _built(build: Build, project: Project, settings: Settings) -> status.Built:
    outputs = Outputs.model_validate(build.outputs) if build.outputs else None
    preview = of_ref(build.ref, project.default_branch) is Environment.PREVIEW
    names = [item.name for item in (*outputs.services, *outputs.sites)] if outputs else []  # type: ignore[attr-defined]
    return status.Built(
        id=build.id,
        ref=build.ref,
        commit=build.commit,
        status=build.status,
        error=build.error,
        origin=(outputs.origin if outputs else None) or build.id,
        started_at=build.started_at,
        built_at=build.built_at,
        hosts={name: _url(settings, project, build.ref, name) for name in names} if outputs else None,
        deploys=not (preview and outputs is not None and not outputs.preview_deployments),
    )


def _url(settings: Settings, project: Project, ref: str, name: str) -> str:
    label = naming.label(project.name, name, naming.slug(ref))
    return settings.url(f"{label}.{settings.base_domain}")


def log_url(settings: Settings, build_id: int) -> str:
    """Say where a build's log is shown, live; empty when Kennel has no host name."""
    return f"{settings.url(settings.domain)}/builds/{build_id}/log?follow=true" if settings.domain else ""


def comments(settings: Settings, told: Reports) -> list[Wanted]:
    """Say which pull requests should have which comment; a build on its way changes none."""
    rows = [row for row in PullRequest.select(PullRequest, Project).join(Project) if _matters(row, told)]
    open_rows = [row for row in rows if row.open]
    newest = _newest(open_rows)
    lines = _lines(settings, open_rows)
    answers = _answers(rows)
    found = []
    for row in rows:
        key = (row.project_id, pull_request_ref(row.number))
        has_one = _told_open(row, told)
        if not row.open:
            view = comment.View(gone=tuple(row.removed or ()))
        elif row.state == State.HELD:
            view = comment.View(why_not=row.why)
        else:
            build, answer = newest.get(key), answers.get((row.project_id, row.number))
            waits = row.why if row.state == State.WAITING else None
            on_its_way = build is not None and build.status in builds.UNFINISHED
            if (on_its_way or build is None) and not waits and not answer:
                continue
            view = comment.View(
                lines=tuple(lines[key]),
                failure=_failure(settings, build),
                waits=waits,
                approvable=pull_requests.needs_approval(row),
                answer=answer,
                why_not=None if lines[key] else _why_not(build),
                commit=row.commit,
            )
        if has_one or (row.open and row.state != State.HELD):
            state = "open" if row.open else "closed"
            found.append(
                Wanted(row.project, f"comment:{row.number}", f"{state}:{_digest(asdict(view))}", view)
            )
    return found


def _matters(row: PullRequest, told: Reports) -> bool:
    """Tell whether a pull request is open, or closed without its comment saying so."""
    return row.open or _told_open(row, told)


def _told_open(row: PullRequest, told: Reports) -> bool:
    report = told.get((row.project_id, f"comment:{row.number}"))
    return report is not None and (report.digest or "").startswith("open:")


def _newest(rows: Iterable[PullRequest]) -> dict[tuple[int, str], Build]:
    projects = {row.project_id for row in rows}
    latest = (
        Build.select(fn.MAX(Build.id))
        .where(Build.project << list(projects), Build.ref.startswith("pr-"))
        .group_by(Build.project, Build.ref)
    )
    return {(row.project_id, row.ref): row for row in builds.without_log().where(Build.id << latest)}


def _lines(settings: Settings, rows: Iterable[PullRequest]) -> dict[tuple[int, str], list[comment.Line]]:
    """Describe what is live of pull requests, by project id and ref."""
    found: dict[tuple[int, str], list[comment.Line]] = defaultdict(list)
    query = Deployment.select().where(
        Deployment.project << list({row.project_id for row in rows}),
        Deployment.ref.startswith("pr-"),
        Deployment.live.is_null(is_null=False),
    )
    live = list(query.order_by(Deployment.name))
    made = {
        row.id: row
        for row in builds.without_log().where(Build.id << list({row.live["build"] for row in live}))
    }
    asleep = sleeping.asleep()
    for row in live:
        if not is_pull_request(row.ref):
            continue
        key = (row.project_id, row.ref)
        build = made.get(row.live["build"])
        found[key].append(
            comment.Line(
                name=row.name,
                url=settings.url(row.live["custom_domain"] or row.live["host"]),
                commit=row.live["commit"],
                state="asleep" if key in asleep and row.unit else "live",
                took=_took(build),
                log=log_url(settings, row.live["build"]),
            )
        )
    return found


def _took(build: Build | None) -> str:
    if build is None or build.started_at is None or build.finished_at is None:
        return ""
    return status.duration(build.finished_at - build.started_at)


def _failure(settings: Settings, build: Build | None) -> comment.Failure | None:
    if build is None or build.status != BuildStatus.FAILED:
        return None
    return comment.Failure(build.id, build.commit, build.error or "failed", log_url(settings, build.id))


def _why_not(build: Build | None) -> str | None:
    """Say why a build that ended well has nothing that is live."""
    if build is None or build.status != BuildStatus.DONE or not build.outputs:
        return None
    wanted = Outputs.model_validate(build.outputs).preview_deployments
    return None if wanted else "kennel.json says that there are no previews"


def _answers(rows: Iterable[PullRequest]) -> dict[tuple[int, int], comment.Answer]:
    projects = list({row.project_id for row in rows})
    found = Command.select().where(Command.project << projects, Command.answer.is_null(is_null=False))
    return {
        (row.project_id, row.number): comment.Answer(row.id, row.author, row.words, row.answer)
        for row in found.order_by(Command.id)
    }


def tag(settings: Settings, project: Project, number: int) -> str:
    """Give what proves that a comment is Kennel's: a stranger's could have the marker, too.

    Raises:
        ConfigError: the key file is missing, unreadable or too short.
    """
    purpose = f"comment:{project.full_name.lower()}:{number}"
    return f"kennel:{derived.digest(settings.secret_key_file, purpose).hex()[:24]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
