"""Which OIDC clients the deployments want, whole. Pure.

A project whose services log people in has a pair of confidential clients: ``{slug}`` for prod, and
``{slug}-staging`` for everything else. What each may redirect to follows from the deployment rows alone, so
that nothing has to be read, changed and written back.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kennel_core import naming
from kennel_core.environment import Environment

URI_MAX = 255  # characters of a redirect URI that Keycloak stores
PATH_MAX = 200
PROD = (Environment.PROD,)
OTHERS = (Environment.STAGING, Environment.DEV, Environment.PREVIEW)

_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Login:
    """A live service that logs people in.

    `host_urls` are all its hosts as browsers name them, ``https://HOST`` or ``https://HOST:PORT``, in lower
    case; `paths` what it declares as redirect paths.
    """

    project_id: int
    project: str  # the repository's name
    environment: Environment
    host_urls: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """A confidential client as it must be."""

    client_id: str
    project_id: int
    project: str
    environments: tuple[Environment, ...]  # whom it serves; also the secretspec profiles
    redirect_uris: frozenset[str] = frozenset()
    post_logout_uris: frozenset[str] = frozenset()
    web_origins: frozenset[str] = frozenset()


def redirect_path(value: str) -> str:
    """Check a redirect path of kennel.json: it is joined to a host and compared literally.

    Raises:
        ValueError: what it must be.
    """
    if len(value) > PATH_MAX or not _PATH.fullmatch(value) or _DOTS.search(value):
        raise ValueError(
            "must be an absolute path such as /auth/callback: no wildcard, query, fragment, '.' or '..', "
            f"at most {PATH_MAX} characters"
        )
    return value


def clients(logins: Iterable[Login], held: Mapping[str, int] | None = None) -> tuple[list[Client], list[str]]:
    """Derive every client that is wanted, sorted by name, and a sentence for each URI that is left out.

    `held` tells which project already has a client of a name, by the clients that Kennel made: a project
    keeps its names for as long as it has them. Both clients of the pair are there while the project has any
    login; one that nothing deployed can use has no redirect URI.
    """
    by_project: dict[int, list[Login]] = {}
    for login in logins:
        by_project.setdefault(login.project_id, []).append(login)
    stems = _stems({number: found[0].project for number, found in by_project.items()}, held or {})
    wanted: list[Client] = []
    warnings: list[str] = []
    for number, found in by_project.items():
        for name, environments in zip(_pair(stems[number]), (PROD, OTHERS), strict=True):
            served = [login for login in found if login.environment in environments]
            client, left_out = _client(name, number, found[0].project, environments, served)
            wanted.append(client)
            warnings += left_out
    return sorted(wanted, key=lambda client: client.client_id), sorted(warnings)


def serving(wanted: Iterable[Client], project_id: int, environment: Environment) -> Client | None:
    """Find the client that a project's services of one environment use."""
    for client in wanted:
        if client.project_id == project_id and environment in client.environments:
            return client
    return None


def _client(
    name: str, number: int, project: str, environments: tuple[Environment, ...], logins: list[Login]
) -> tuple[Client, list[str]]:
    origins = {url for login in logins for url in login.host_urls}
    uris = {f"{url}{path}" for login in logins for url in login.host_urls for path in login.paths}
    fit = frozenset(uri for uri in uris if len(uri) <= URI_MAX)
    client = Client(
        name,
        number,
        project,
        environments,
        redirect_uris=fit,
        post_logout_uris=fit | origins | {f"{origin}/" for origin in origins},
        web_origins=frozenset(origins),
    )
    return client, [
        f"{project}: redirect URI {uri} is left out: it has {len(uri)} characters, Keycloak takes {URI_MAX}; "
        "shorten the path or the host name"
        for uri in uris - fit
    ]


def _pair(stem: str) -> tuple[str, str]:
    return stem, f"{stem}-staging"


def _stems(projects: Mapping[int, str], held: Mapping[str, int]) -> dict[int, str]:
    """Name each project's pair.

    Two repositories of one name, or ``shop`` and ``shop-staging``, would meet: whoever holds a name keeps it,
    then the project that was registered first gets it, and the other gets 8 hex digits of its own.
    """
    found: dict[int, str] = {}
    taken = dict(held)
    for number in sorted(projects, key=lambda number: (not _holds(number, held), number)):
        plain = naming.slug(projects[number])
        own = f"{plain[: naming.DNS_LABEL_MAX - naming.DIGEST_LENGTH - 1]}-{naming.digest('oidc', number)}"
        keeps_own = any(held.get(name) == number for name in _pair(own))
        free = all(taken.get(name, number) == number for name in _pair(plain))
        found[number] = plain if free and not keeps_own else own
        taken |= dict.fromkeys(_pair(found[number]), number)
    return found


def _holds(number: int, held: Mapping[str, int]) -> bool:
    return number in set(held.values())
