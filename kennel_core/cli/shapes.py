"""Rows as records: the fields that ``--json`` prints and tables choose from. They are kept stable."""

from typing import Any

from kennel_core import deployments, sleeping
from kennel_core.cli.output import moment
from kennel_core.models import AuditEntry, Build, Deployment, Project, PullRequest
from kennel_core.settings import Settings


def of_project(row: Project) -> dict[str, Any]:
    """Describe a project, without its secret."""
    return {
        "id": row.id,
        "project": row.full_name,
        "clone_url": row.clone_url,
        "default_branch": row.default_branch,
        "created_at": moment(row.created_at),
    }


def of_build(row: Build) -> dict[str, Any]:
    """Describe a build, without its log."""
    return {
        "id": row.id,
        "project": row.project.full_name,
        "ref": row.ref,
        "commit": row.commit,
        "status": str(row.status),
        "error": row.error,
        "attempt": row.attempt,
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "built_at": moment(row.built_at),
        "finished_at": moment(row.finished_at),
    }


def _status(row: Deployment) -> str:
    if row.live != deployments.snapshot(row):
        return "starting"
    return "asleep" if (row.project_id, row.ref) in sleeping.asleep() else "live"


def of_deployment(row: Deployment, settings: Settings) -> dict[str, Any]:
    """Describe a deployment. `status`: starting until the row's own version is live; or asleep."""
    live = row.live or {}
    hosts = [host for host in (row.custom_domain, row.host, row.alias_host) if host]
    return {
        "id": row.id,
        "project": row.project.full_name,
        "ref": row.ref,
        "name": row.name,
        "kind": str(row.kind),
        "environment": str(row.environment),
        "status": _status(row),
        "url": settings.url(hosts[0]),
        "hosts": hosts,
        "build": row.__data__["build"],  # without a query for the row
        "live_build": live.get("build"),
        "store_path": row.store_path,
        "unit": row.unit,
        "port": row.port,
        "updated_at": moment(row.updated_at),
    }


def of_pull_request(row: PullRequest) -> dict[str, Any]:
    """Describe a pull request. `state` is one of `kennel_core.pull_requests.State`."""
    return {
        "project": row.project.full_name,
        "number": row.number,
        "commit": row.commit,
        "author": row.author,
        "fork": row.fork,
        "draft": row.draft,
        "labels": row.labels,
        "state": str(row.state),
        "why": row.why,
        "approved_commit": row.approved_commit,
        "approved_by": row.approved_by,
    }


def of_audit_entry(row: AuditEntry) -> dict[str, Any]:
    """Describe what somebody asked for."""
    return {
        "at": moment(row.at),
        "who": row.who,
        "what": row.what,
        "target": row.target,
        "outcome": row.outcome,
    }
