"""``kennel resource``."""

import sys
import time
from typing import Any

import click

from kennel_core import db, resources
from kennel_core.cli.context import database, doorbell, json_option
from kennel_core.cli.output import moment, rows, show
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import Resource
from kennel_core.reconcile import provisioning
from kennel_core.reconcile.desired import wanted
from kennel_core.settings import Settings


@click.group()
def resource() -> None:
    """See what Kennel made on other servers, and let it go."""


@resource.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """Show databases, caches, buckets and login clients, with their owners."""
    with database() as settings:
        idle = _idle(settings)
        data = [_record(row, idle) for row in _all()]
    columns = ("kind", "name", "project", "ref", "environment", "status", "unwanted_since")
    show(data, lambda: rows(data, columns, "Kennel has made nothing for anybody"), as_json=as_json)


@resource.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(name: str, *, yes: bool, as_json: bool) -> None:
    """Let the data of a ref that is gone go, too; the next pass removes it.

    NAME is as `kennel resource list` shows it, or KIND/NAME where two kinds have that name.
    """
    with database() as settings:
        row = _find(name)
        _require_idle(row, settings)
        if not yes:
            what = f"the {row.kind} {row.name} of {row.project}, {row.ref}"
            if not sys.stdin.isatty():
                raise click.UsageError(f"this removes {what} for good: add --yes")
            click.confirm(f"Remove {what}, with all that is in it?", abort=True, err=True)
        now = time.time()
        with db.write():
            _require_idle(row, settings)  # a push may have come meanwhile
            if row.unwanted_at is None:
                resources.unwanted([row.id], now)  # who wants it again then takes the confirmation back
            resources.confirm([row.id], now)
        data = _record(Resource.get_by_id(row.id), {row.id})
        doorbell().reconcile()
    show(data, lambda: click.echo(f"{row.kind} {row.name}: the next pass removes it"), as_json=as_json)


def _all() -> list[Resource]:
    order = (Resource.project, Resource.ref, Resource.kind)
    return list(Resource.select().where(Resource.kind != resources.UNIT).order_by(*order))


def _idle(settings: Settings) -> set[int]:
    rows_ = wanted(settings)
    needed = provisioning.wanted((*rows_.live, *rows_.rollouts))
    return {row.id for row in provisioning.idle(resources.owned(), needed)}


def _find(name: str) -> Resource:
    found = [row for row in _all() if name in (row.name, f"{row.kind}/{row.name}")]
    if not found:
        raise NotFound(f"{name}: no such resource; `kennel resource list` shows them all")
    if len(found) > 1:
        choices = " or ".join(f"{row.kind}/{row.name}" for row in found)
        raise Conflict(f"{name}: say which one: {choices}")
    return found[0]


def _require_idle(row: Resource, settings: Settings) -> None:
    if row.kind == resources.OIDC:
        raise Conflict(f"{row.name}: a login client goes by itself with the last service that declares it")
    if row.id not in _idle(settings):
        raise Conflict(
            f"{row.name}: {row.project}, {row.ref} is deployed and wants it; remove the branch first"
        )


def _record(row: Resource, idle: set[int]) -> dict[str, Any]:
    """Describe a resource. `status`: making, wanted, kept (until somebody removes it) or going."""
    status = "wanted" if row.made_at else "making"
    if row.id in idle:
        lasts = row.environment in resources.LASTING and row.confirmed_at is None
        status = "kept" if lasts else "going"
    return {
        "kind": row.kind,
        "name": row.name,
        "project": row.project,
        "ref": None if row.kind == resources.OIDC else row.ref,
        "environment": row.environment,
        "status": status,
        "made_at": moment(row.made_at),
        "unwanted_since": moment(row.unwanted_at),
        "confirmed_at": moment(row.confirmed_at),
    }
