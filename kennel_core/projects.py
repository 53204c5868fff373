"""Registered repositories, and the secret that each forge hook is signed with."""

import re
import secrets
from pathlib import Path

from kennel_core import db, derived, environment
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import Deployment, Project

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def create_secret_key(path: Path) -> bool:
    """Create the key that webhook secrets are derived from; False when there is one already."""
    try:
        db.create_private(path, secrets.token_hex(32).encode())
    except FileExistsError:
        return False
    return True


def webhook_secret(project: Project, key_file: Path) -> str:
    """Derive the secret that the forge signs this project's deliveries with: 64 hex digits.

    It follows from the key file, the project's id and its generation, so that the database holds no
    secret.

    Raises:
        ConfigError: the key file is missing, unreadable or too short.
    """
    return derived.digest(key_file, f"webhook:{project.id}:{project.secret_generation}").hex()


def find(full_name: str) -> Project:
    """Return the project ``owner/name``.

    Raises:
        NotFound: it is not registered.
    """
    owner, _, name = full_name.partition("/")
    project = Project.get_or_none(Project.owner == owner, Project.name == name)
    if project is None:
        raise NotFound(f"{full_name}: no such project; `kennel project list` shows them all")
    return project


def find_by_number(forge_id: int) -> Project | None:
    """Return the project of the repository that has this number on the forge, whatever its name is now."""
    found: Project | None = Project.get_or_none(Project.forge_id == forge_id)
    return found


def add(full_name: str, clone_url: str, default_branch: str, forge_id: int | None = None) -> Project:
    """Register a repository.

    Raises:
        Conflict: it is registered already, or a name cannot be used.
    """
    owner, name = _checked(full_name)
    if environment.is_pull_request(default_branch):
        raise Conflict(f"{default_branch!r}: a branch of this name would be taken for a pull request")
    with db.write():
        if Project.get_or_none(Project.owner == owner, Project.name == name):
            raise Conflict(f"{full_name}: is registered already")
        return Project.create(
            owner=owner, name=name, clone_url=clone_url, default_branch=default_branch, forge_id=forge_id
        )


def rename(project: Project, full_name: str, clone_url: str) -> None:
    """Follow a repository that was renamed or moved, inside the caller's `db.write()`.

    What is deployed stays under its old host names until it is built again.

    Raises:
        Conflict: the name cannot be used, or another project has it.
    """
    owner, name = _checked(full_name)
    other = Project.get_or_none(Project.owner == owner, Project.name == name)
    if other is not None and other.id != project.id:
        raise Conflict(f"{project.full_name} is called {full_name} now, which is the name of another project")
    Project.update(owner=owner, name=name, clone_url=clone_url).where(Project.id == project.id).execute()
    project.owner, project.name, project.clone_url = owner, name, clone_url


def namesakes() -> dict[int, str]:
    """Say which projects have the name of one that was registered before, by id: and which that is.

    Secrets are kept by the repository's name, whoever its owner is, as secretspec does.
    """
    first: dict[str, str] = {}
    found = {}
    for project in Project.select().order_by(Project.id):
        holder = first.setdefault(project.name.lower(), project.full_name)
        if holder != project.full_name:
            found[project.id] = holder
    return found


def rotate_secret(project: Project) -> None:
    """Give the project another webhook secret; the old one is worth nothing from now on."""
    Project.update(secret_generation=Project.secret_generation + 1).where(Project.id == project.id).execute()
    project.secret_generation += 1


def remove(project: Project) -> int:
    """Forget a project with its builds; returns how many deployments the next pass takes down."""
    with db.write():
        rows: int = Deployment.delete().where(Deployment.project == project).execute()
        project.delete_instance()
    return rows


def _checked(full_name: str) -> tuple[str, str]:
    owner, _, name = full_name.partition("/")
    if not NAME.fullmatch(owner) or not NAME.fullmatch(name):
        raise Conflict(f"{full_name!r}: must be OWNER/NAME, each of letters, digits, '.', '_' and '-'")
    return owner, name
