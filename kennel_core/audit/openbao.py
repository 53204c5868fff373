"""OpenBao: the logins that Kennel stores for projects."""

from collections.abc import Iterator

from kennel_core import naming, oidc, resources
from kennel_core.adapters.openbao import OpenBao
from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Verdict
from kennel_core.audit.keycloak import STAGING, again
from kennel_core.audit.scope import Scope
from kennel_core.environment import Environment
from kennel_core.secrets import FIELD, ROOT

SYSTEM = "openbao"
CLIENT_ID = "OIDC_CLIENT_ID"


def look(scope: Scope) -> list[Finding]:
    """Compare the names of clients that are stored with those that the rows want.

    Nothing proves who stored one: it is never removed here.
    """
    paths = {
        _path(project, profile): (number, project, profile) for number, project, profile in _places(scope)
    }
    entries = OpenBao(scope.settings).read(paths)
    found = []
    for path, (number, project, profile) in sorted(paths.items()):
        entry = entries[path]
        value = entry.fields.get(FIELD) if entry else None
        client = oidc.serving(scope.clients, number, profile) if scope.settings.keycloak else None
        if client is not None and value != client.client_id:
            why = "it names another client" if value else f"{project} wants it"
            found.append(Finding(SYSTEM, Verdict.MISSING, path, why, again(scope, client)))
        elif client is None and value in _names(project, number):
            why = f"the login of a client that no deployment wants; {LOOK_YOURSELF}"
            found.append(Finding(SYSTEM, Verdict.UNKNOWN, path, why))
    return found


def _places(scope: Scope) -> Iterator[tuple[int, str, Environment]]:
    projects = {row.id: row.name for row in scope.projects.values()}
    projects |= {row.project_id: row.project for row in scope.of(resources.OIDC) if row.project}
    mine = [item for item in sorted(projects.items()) if item[0] not in scope.namesakes]
    return ((number, name, one) for number, name in mine for one in Environment)


def _path(project: str, profile: Environment) -> str:
    return f"{ROOT}/{project}/{profile}/{CLIENT_ID}"


def _names(project: str, number: int) -> set[str]:
    """Give every name that a client of the project may have: see `kennel_core.oidc`."""
    plain = naming.slug(project)
    own = f"{plain[: naming.DNS_LABEL_MAX - naming.DIGEST_LENGTH - 1]}-{naming.digest('oidc', number)}"
    return {plain, own, f"{plain}{STAGING}", f"{own}{STAGING}"}
