"""The forge: scopes of the token, its rights on each repository, and where deliveries go."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from kennel_core import db
from kennel_core.adapters.forge import Forge, doorway
from kennel_core.doctor.checks import Check, Checks, failed, ok, warning
from kennel_core.errors import NotFound
from kennel_core.models import Project
from kennel_core.settings import Settings

SYSTEM = "forge"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def examine(settings: Settings) -> Checks:
    """Look; nothing is made. Raises what a look at the repositories would get."""
    forge = Forge(settings)
    yield ok(SYSTEM, f"version {forge.version()} answers at {settings.forge_url}")
    if settings.forge_token_file is None:
        yield failed(SYSTEM, "there is no token", "make one, and name its file in KENNEL_FORGE_TOKEN_FILE")
        return
    missing = forge.missing_scopes()
    if missing:
        scopes = " and ".join(doorway.SCOPES)
        yield failed(SYSTEM, f"the token lacks {' and '.join(missing)}", f"make one that has {scopes}")
        return
    yield ok(SYSTEM, f"the token has {' and '.join(doorway.SCOPES)}")
    yield from _deliveries(settings)
    with db.connection():
        rows = list(Project.select().where(Project.forge_id.is_null(is_null=False)))
    for row in rows:
        if doorway.is_of(settings.forge_url, row.clone_url):
            yield from _rights(row, forge)


def _deliveries(settings: Settings) -> Iterator[Check]:
    here, there = (urlsplit(url).hostname for url in (settings.webhook_url, settings.forge_url))
    if here in LOOPBACK and there not in LOOPBACK:
        remedy = "set KENNEL_DOMAIN, or KENNEL_FORGE_HOOK_URL to an address that the forge reaches"
        yield failed(
            SYSTEM, f"deliveries go to {settings.webhook_url}, which is the forge's own host", remedy
        )
    elif here in LOOPBACK:
        remedy = "its [webhook] ALLOWED_HOST_LIST must have loopback"
        yield warning(
            SYSTEM, f"deliveries go to {settings.webhook_url}: the forge refuses that by default", remedy
        )
    else:
        yield ok(SYSTEM, f"deliveries go to {settings.webhook_url}")


def _rights(row: Project, forge: Forge) -> Iterator[Check]:
    try:
        permission = forge.repository_by_id(row.forge_id).permission
    except NotFound:
        remedy = f"let the token's user see it, or `kennel project remove {row.full_name}`"
        yield failed(SYSTEM, f"{row.full_name}: there is no such repository", remedy)
        return
    if permission != "admin":
        remedy = "make the token's user a collaborator with admin rights"
        yield failed(
            SYSTEM, f"{row.full_name}: the token's user has the right {permission!r}, and no more", remedy
        )
