"""Keycloak: the token, and the right to make clients."""

import secrets
from contextlib import suppress

from kennel_core.doctor.checks import Checks, ok
from kennel_core.doctor.trial import PROJECT, PROJECT_ID
from kennel_core.errors import AdapterError
from kennel_core.oidc import Client
from kennel_core.provision.oidc import Oidc
from kennel_core.settings import Settings

SYSTEM = "keycloak"


def examine(settings: Settings) -> Checks:
    """Make and remove a client. Raises what a pass would get."""
    server = Oidc(settings)
    server.present()
    yield ok(SYSTEM, f"realm {settings.keycloak_realm} of {settings.keycloak} lists its clients")
    name = f"{PROJECT}-{secrets.token_hex(6)}"
    try:
        server.ensure(Client(name, PROJECT_ID, PROJECT, ()))
    except BaseException:
        with suppress(AdapterError):  # what went wrong first says more
            server.remove(name, PROJECT_ID)
        raise
    server.remove(name, PROJECT_ID)
    yield ok(SYSTEM, "made and removed a client: it has manage-clients")
