"""Whose delivery it is: a registered project's, one's whose repository has another name now, or a new one's.

With a shared secret (KENNEL_AUTO_REGISTER_SECRET_FILE) the first delivery that it signs registers its
repository. It goes on signing for a project until Kennel makes a webhook there, with a secret of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from kennel_core import db, projects, webhook
from kennel_core.adapters.forge.doorway import is_of
from kennel_core.errors import BadPayload, BadSignature, ConfigError, Conflict, NotFound
from kennel_core.models import Project
from kennel_core.settings import Settings
from kennel_core.webhook import Payload

SECRET_MIN = 16  # characters

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Repository:
    """What a delivery says of its repository, beside the name; nothing of it is checked."""

    number: int | None
    clone_url: str
    default_branch: str


def signed_by(payload: Payload, body: bytes, headers: Mapping[str, str], settings: Settings) -> Project:
    """Return the project that a delivery is of, when its secret or the shared one signed it.

    Raises:
        BadSignature: neither did, or there is no such project.
        BadPayload: it would register a repository, and describes one that cannot be used.
        ConfigError: a file of secrets cannot be used.
    """
    project = _known(payload)
    if project is None:
        webhook.verify(shared_secret(settings), body, headers)  # without one it fails, and takes as long
        return _registered(payload, settings)
    try:
        webhook.verify(projects.webhook_secret(project, settings.secret_key_file), body, headers)
    except BadSignature:
        if project.hook_id is not None:
            raise
        webhook.verify(shared_secret(settings), body, headers)
    if project.full_name != payload.repository:
        _follow(project, payload)
    return project


def shared_secret(settings: Settings) -> str:
    """Read the secret that may register; empty, which signs nothing, when none is configured.

    Raises:
        ConfigError: the file cannot be read, or holds less than SECRET_MIN characters.
    """
    file = settings.auto_register_secret_file
    if file is None:
        return ""
    try:
        found = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{file}: cannot be read ({exc}): KENNEL_AUTO_REGISTER_SECRET_FILE names it"
        ) from exc
    if len(found) < SECRET_MIN:
        raise ConfigError(f"{file}: holds less than {SECRET_MIN} characters; anybody could guess it")
    return found


def _described(payload: Payload) -> _Repository:
    found = payload.document["repository"]
    number, url, branch = found.get("id"), found.get("clone_url"), found.get("default_branch")
    return _Repository(
        number=number if type(number) is int and 0 < number < webhook.NUMBER_MAX else None,
        clone_url=url if isinstance(url, str) else "",
        default_branch=branch if isinstance(branch, str) and branch.isprintable() else "",
    )


def _known(payload: Payload) -> Project | None:
    """Find the project by the repository's name, unless that is another repository now, or by its number."""
    described = _described(payload)
    try:
        named = projects.find(payload.repository.encode("ascii", "replace").decode())
    except NotFound:
        named = None
    if named is not None and (described.number is None or named.forge_id in {None, described.number}):
        return named
    found = None if described.number is None else projects.find_by_number(described.number)
    return found if found is not None and is_of(found.clone_url, described.clone_url) else None


def _registered(payload: Payload, settings: Settings) -> Project:
    """Register what a delivery describes that the shared secret signed."""
    described = _described(payload)
    url = described.clone_url
    if urlsplit(url).scheme not in {"https", "http"} or "@" in url or not url.isprintable() or " " in url:
        raise BadPayload("repository.clone_url: must be an https:// URL without a user name")
    if settings.forge_url and not is_of(settings.forge_url, url):
        raise BadPayload(f"repository.clone_url: must lead to {settings.forge_url}, as KENNEL_FORGE_URL says")
    branch = described.default_branch or "main"
    try:
        project = projects.add(payload.repository, url, branch, described.number)
    except Conflict as exc:
        found = _known(payload)  # another worker was quicker
        if found is None:
            raise BadPayload(str(exc)) from exc
        return found
    log.info("registered by its first delivery", project=project.full_name)
    return project


def _follow(project: Project, payload: Payload) -> None:
    """Take over the new name of a repository: the forge tells nobody when it gives one."""
    old, url = project.full_name, _described(payload).clone_url
    try:
        with db.write():
            projects.rename(
                project, payload.repository, url if is_of(project.clone_url, url) else project.clone_url
            )
    except Conflict as exc:
        log.warning("a repository has another name", project=old, error=str(exc))
    else:
        log.info("a repository has another name", project=project.full_name, before=old)
