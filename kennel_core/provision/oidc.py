"""OIDC clients in Keycloak, made as `kennel_core.oidc` wants them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kennel_core.adapters.keycloak import Keycloak, Representation
from kennel_core.errors import ConfigError, Rejected, Unavailable
from kennel_core.oidc import Client
from kennel_core.settings import Settings

MARK = "kennel.project"  # attribute of each client that Kennel made: the project's id
LOGOUT = "post.logout.redirect.uris"
SEPARATOR = "##"  # between the URIs of LOGOUT
NOWHERE = "-"  # LOGOUT's word for "to no URI at all"
TRIES = 4  # somebody else may write, too

FLAGS = {
    "enabled": True,
    "protocol": "openid-connect",
    "publicClient": False,
    "bearerOnly": False,
    "clientAuthenticatorType": "client-secret",
    "standardFlowEnabled": True,
    "implicitFlowEnabled": False,
    "directAccessGrantsEnabled": False,
    "serviceAccountsEnabled": False,
}


@dataclass(frozen=True, slots=True)
class Found:
    """A client that carries Kennel's mark, as Keycloak has it."""

    client_id: str
    project_id: int
    representation: Representation = field(repr=False)  # with the secret

    def differs(self, client: Client) -> tuple[str, ...]:
        """Name the fields that are not as wanted, sorted."""
        return tuple(sorted(_differing(client, self.representation)))


class Oidc:
    """Makes and removes clients in the realm of the settings. May be used by several threads.

    Whatever else an operator sets on a client, such as protocol mappers, stays. A client without the mark of
    the project is never written, nor removed. Every method may raise `Unavailable` or `Rejected`.
    """

    def __init__(self, settings: Settings) -> None:
        """Log in nowhere yet.

        Raises:
            ConfigError: a setting is missing, or its file cannot be read.
        """
        if not settings.keycloak_realm or settings.keycloak_secret_file is None:
            raise ConfigError(
                "KENNEL_KEYCLOAK also needs KENNEL_KEYCLOAK_REALM and KENNEL_KEYCLOAK_SECRET_FILE"
            )
        try:
            secret = settings.keycloak_secret_file.read_text().strip()
        except OSError as exc:
            name = "KENNEL_KEYCLOAK_SECRET_FILE"
            raise ConfigError(f"{name}: {settings.keycloak_secret_file}: {exc.strerror}") from exc
        self._keycloak = Keycloak(
            settings.keycloak, settings.keycloak_realm, settings.keycloak_client, secret
        )

    def present(self) -> dict[str, Found]:
        """List the clients with Kennel's mark, by name, in one request."""
        found = {}
        for client in self._keycloak.all():
            owner = _owner(client)
            if owner is not None and isinstance(name := client.get("clientId"), str):
                found[name] = Found(name, owner, client)
        return found

    def ensure(self, client: Client) -> str:
        """Make the client as it must be and return its secret; writes only what differs.

        May be repeated after a crash at any step, and called by two at once.

        Raises:
            Rejected: also when somebody else made a client of this name.
        """
        operation = f"ensure client {client.client_id}"
        for _try in range(TRIES):
            have = self._keycloak.find(client.client_id)
            if have is None:
                self._keycloak.create(_representation(client))
                continue
            if _owner(have) != client.project_id:
                raise Rejected(
                    "keycloak",
                    operation,
                    f"there is one that Kennel did not make for {client.project}: remove or rename it",
                )
            changes = _differing(client, have)
            if changes:
                self._keycloak.update(have["id"], changes)
                continue
            secret = _secret(have) or self._keycloak.secret(have["id"])
            if secret:
                return secret
        raise Unavailable("keycloak", operation, "it does not stay as it is written: who else writes it?")

    def secret(self, client: Client) -> str | None:
        """Read the secret of a client; None where Kennel has made none of this name for the project."""
        have = self._keycloak.find(client.client_id)
        if have is None or _owner(have) != client.project_id:
            return None
        return _secret(have) or self._keycloak.secret(have["id"])

    def remove(self, client_id: str, project_id: int) -> None:
        """Remove the client that Kennel made for the project; quiet where there is none, or another's."""
        have = self._keycloak.find(client_id)
        if have is None or _owner(have) != project_id:
            return
        try:
            self._keycloak.delete(have["id"])
        except Unavailable:  # Keycloak answers 500 to one of two that remove it at once
            if self._keycloak.find(client_id) is not None:
                raise


def variables(client: Client, secret: str, settings: Settings) -> dict[str, str]:
    """Give a service what it needs to log people in."""
    root = settings.keycloak.rstrip("/")
    return {
        "OIDC_CLIENT_ID": client.client_id,
        "OIDC_CLIENT_SECRET": secret,
        "OIDC_ISSUER": f"{root}/realms/{settings.keycloak_realm}",
        "KEYCLOAK_URL": root,
        "KEYCLOAK_REALM": settings.keycloak_realm,
    }


def _representation(client: Client) -> dict[str, Any]:
    """Spell a client as Keycloak does: every field that Kennel owns.

    No PKCE method: Keycloak checks it where an application sends it, and an application that proves itself
    by a secret need not.
    """
    return {
        "clientId": client.client_id,
        **FLAGS,
        "redirectUris": sorted(client.redirect_uris),
        "webOrigins": sorted(client.web_origins),
        "attributes": {
            MARK: str(client.project_id),
            LOGOUT: SEPARATOR.join(sorted(client.post_logout_uris)) or NOWHERE,
        },
    }


def _differing(client: Client, have: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields that must be written, as they must be."""
    want = _representation(client)
    attributes = want.pop("attributes")
    changes = {key: value for key, value in want.items() if _plain(value) != _plain(have.get(key))}
    had = have.get("attributes") or {}
    uris = (set(str(text).split(SEPARATOR)) for text in (attributes[LOGOUT], had.get(LOGOUT, "")))
    if len({frozenset(each) for each in uris}) > 1:
        changes["attributes"] = {LOGOUT: attributes[LOGOUT]}
    return changes


def _plain(value: object) -> object:
    """Make lists comparable: Keycloak keeps no order."""
    return frozenset(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _owner(client: Mapping[str, Any]) -> int | None:
    mark = (client.get("attributes") or {}).get(MARK, "")
    return int(mark) if isinstance(mark, str) and mark.isdecimal() else None


def _secret(client: Mapping[str, Any]) -> str | None:
    secret = client.get("secret")
    return secret if isinstance(secret, str) and secret.strip("*") else None
