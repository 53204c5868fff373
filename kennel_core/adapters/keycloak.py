"""Client for the part of Keycloak's admin API that Kennel uses: the clients of one realm.

Clients are given as Keycloak has them (ClientRepresentation). It needs the role `manage-clients` of
`realm-management`, and nothing else.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 10.0
RENEW_AFTER = 2 / 3  # of a token's life

Representation = dict[str, Any]

_ROLE = "give its service account the role manage-clients of the client realm-management"
_SCOPE = (
    "a new token is refused, too: assign the client scope kc-admin-api to it as a default scope "
    "(Keycloak 26.8.2 and newer ask for it), and see that it is enabled"
)


class Keycloak:
    """The clients of one realm, seen with the rights of one client. May be used by several threads.

    `url` is without ``/realms``, the one that browsers use as well; `secret` is `client_id`'s. A server that
    is silent for `timeout` seconds counts as down. Every method raises

    Unavailable: Keycloak is down, silent, not itself, or says "later".
    Rejected: a clear no, such as a wrong secret, a missing role or a realm that does not exist.

    Source: https://www.keycloak.org/docs-api/latest/rest-api/index.html
    """

    def __init__(
        self, url: str, realm: str, client_id: str, secret: str, *, timeout: float = TIMEOUT_S
    ) -> None:
        self._root = url.rstrip("/")
        self._realm = realm
        self._client_id = client_id
        self._secret = secret
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, and no ~/.netrc in place of the token
        self._clients = f"{self._root}/admin/realms/{quote(realm, safe='')}/clients"
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0  # time.monotonic()

    def all(self) -> list[Representation]:
        """Read every client of the realm."""
        return self._representations("list the clients", {})

    def find(self, client_id: str) -> Representation | None:
        """Read the client of this name, letter case included."""
        operation = f"find client {client_id}"
        found = self._representations(operation, {"clientId": client_id})
        return next((client for client in found if client.get("clientId") == client_id), None)

    def create(self, client: Mapping[str, Any]) -> bool:
        """Make a client; False when there is one of this name."""
        operation = f"create client {client['clientId']}"
        return self._call("POST", operation, json=client).status_code != 409

    def update(self, key: str, changes: Mapping[str, Any]) -> bool:
        """Write fields of the client whose internal id is `key`; the others stay as they are.

        False when it is gone, or when somebody else writes at the same moment.
        """
        return _done(self._call("PUT", f"update client {key}", f"/{quote(key, safe='')}", json=changes))

    def delete(self, key: str) -> None:
        """Remove the client whose internal id is `key`; quiet when it is gone."""
        self._call("DELETE", f"delete client {key}", f"/{quote(key, safe='')}")

    def secret(self, key: str) -> str | None:
        """Read the secret of the client whose internal id is `key`; None when it has none, or is gone."""
        operation = f"read the secret of client {key}"
        response = self._call("GET", operation, f"/{quote(key, safe='')}/client-secret")
        value = _answer(response, operation, dict).get("value") if _done(response) else None
        return value if isinstance(value, str) else None

    def _representations(self, operation: str, params: Mapping[str, str]) -> list[Representation]:
        response = self._call("GET", operation, params=params)
        found: list[Representation] = _answer(response, operation, list)
        if not all(isinstance(client, dict) for client in found):
            raise Unavailable("keycloak", operation, "the answer is not a list of clients")
        return found

    def _call(self, method: str, operation: str, path: str = "", **body: Any) -> requests.Response:
        """Ask, once more with a new token when the one it has is refused.

        Answers of 2xx are returned, and 404 and 409 about the client itself.
        """
        token = self._bearer()
        response = self._send(method, f"{self._clients}{path}", operation, token=token, **body)
        if response.status_code == 401:
            token = self._bearer(instead_of=token)
            response = self._send(method, f"{self._clients}{path}", operation, token=token, **body)
        if _done(response) or response.status_code == 409 or (path and _is_gone(response)):
            return response
        if response.status_code == 401 and _said(response):
            raise Rejected("keycloak", operation, f"client {self._client_id}: {_SCOPE}")
        if response.status_code == 403 and _said(response):
            raise Rejected("keycloak", operation, f"client {self._client_id} may not: {_ROLE}")
        raise self._refusal(response, operation)

    def _bearer(self, instead_of: str = "") -> str:
        """Give a token that is good for some time yet, and is not the one that was refused."""
        with self._lock:
            if self._token and self._token != instead_of and time.monotonic() < self._renew_at:
                return self._token
            operation = f"log in as client {self._client_id}"
            asked_at = time.monotonic()
            response = self._send(
                "POST",
                f"{self._root}/realms/{quote(self._realm, safe='')}/protocol/openid-connect/token",
                operation,
                data={
                    "grant_type": "client_credentials",
                    "client_id": self._client_id,
                    "client_secret": self._secret,
                },
            )
            if response.status_code == 401 and _said(response):
                remedy = (
                    "no such client, it is disabled, or its secret is another; check KENNEL_KEYCLOAK_CLIENT"
                )
                raise Rejected("keycloak", operation, f"{remedy} and KENNEL_KEYCLOAK_SECRET_FILE")
            if not _done(response):
                raise self._refusal(response, operation)
            answer = _answer(response, operation, dict)
            token, life = answer.get("access_token"), answer.get("expires_in")
            if not isinstance(token, str) or not isinstance(life, int):
                raise Unavailable("keycloak", operation, "the answer holds no token")
            self._token, self._renew_at = token, asked_at + life * RENEW_AFTER
            return token

    def _send(
        self, method: str, url: str, operation: str, *, token: str = "", **body: Any
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with Effect("keycloak write", acts=method != "GET"):
                return self._session.request(
                    method, url, headers=headers, timeout=self._timeout, allow_redirects=False, **body
                )
        except requests.Timeout as exc:
            silence = f"no answer from {self._root} within {self._timeout:g} s"
            raise Unavailable("keycloak", operation, silence) from exc
        except requests.RequestException as exc:
            cause = f"cannot reach {self._root} ({type(exc).__name__})"
            raise Unavailable("keycloak", operation, f"{cause}; does it run? check KENNEL_KEYCLOAK") from exc

    def _refusal(self, response: requests.Response, operation: str) -> Unavailable | Rejected:
        said, status = _said(response), response.status_code
        if 300 <= status < 400:
            target = response.headers.get("Location", "")[:200]
            return Unavailable("keycloak", operation, f"it sends to {target!r}; is KENNEL_KEYCLOAK right?")
        if said is None:
            strange = f"{status}, and not in Keycloak's words; is {self._root} Keycloak itself?"
            return Unavailable("keycloak", operation, strange)
        if status >= 500 or status == 429:
            return Unavailable("keycloak", operation, f"{status} {said}")
        if status == 404:
            return Rejected("keycloak", operation, f"{said}: check KENNEL_KEYCLOAK_REALM ({self._realm})")
        return Rejected("keycloak", operation, f"{status} {said}")


def _is_gone(response: requests.Response) -> bool:
    """Tell "no such client" from "no such realm" and from a wrong address."""
    return response.status_code == 404 and (_said(response) or "").startswith("Could not find client")


def _done(response: requests.Response) -> bool:
    return 200 <= response.status_code < 300  # `ok` takes a redirect for a success


def _answer(response: requests.Response, operation: str, kind: type[Any]) -> Any:
    """Give the parsed answer, an object (dict) or a list."""
    try:
        answer = response.json()
    except requests.JSONDecodeError as exc:
        raise Unavailable("keycloak", operation, "the answer is not JSON") from exc
    if not isinstance(answer, kind):
        raise Unavailable("keycloak", operation, "the answer is JSON, and not what Keycloak answers")
    return answer


def _said(response: requests.Response) -> str | None:
    """Give Keycloak's own words for an error; None when the answer is not Keycloak's."""
    try:
        answer: Any = response.json()
    except requests.JSONDecodeError:
        return None
    if not isinstance(answer, dict):
        return None
    words = [answer.get(key) for key in ("errorMessage", "error", "error_description")]
    said = ": ".join(word for word in words if isinstance(word, str))
    return "".join(c if c.isprintable() else " " for c in said)[:300] or None
