"""One request to the forge's API, and what its answers mean."""

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from kennel_core.effects import Effect
from kennel_core.errors import ConfigError, NotFound, Rejected, Unavailable
from kennel_core.settings import Settings

TIMEOUT_S = 10.0
PAGE_SIZE = 50  # what both forges allow unless they are told otherwise
PAGES_MAX = 400
REDIRECTS_MAX = 3  # a renamed repository answers one
SCOPES = ("write:repository", "write:issue")

_SCOPE = re.compile(r"required scope\(s\)[^\[]*\[([^\]]*)\]")


class MissingScope(Rejected):
    """The token lacks a scope, which the message names."""


class Doorway:
    """The API below ``/api/v1``, asked with one token. May be used by several threads.

    Every method raises

    Unavailable: the forge is down, silent, not itself, or says "later".
    Rejected: a clear no: the token, a scope, a right, or the request itself.
    NotFound: there is no such thing, or the token's user may not see it.

    Sources: https://forgejo.org/docs/latest/user/api-usage/, https://docs.gitea.com/development/api-usage
    """

    def __init__(self, settings: Settings, timeout: float = TIMEOUT_S) -> None:
        if not settings.forge_url:
            raise ConfigError("KENNEL_FORGE_URL is not set: no forge is asked")
        self.url = settings.forge_url
        self._root = f"{self.url}/api/v1"
        self._token = token(settings)
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # no ~/.netrc in place of the token

    def get(self, path: str, operation: str, **params: str) -> Any:
        """Read one document."""
        return self._parsed(self._send("GET", path, operation, params=params), operation)

    def pages(self, path: str, operation: str, key: str = "", **params: str) -> Iterator[Any]:
        """Read every entry of a list, page by page; `key` names the list in its document."""
        seen = 0
        for page in range(1, PAGES_MAX + 1):
            asked = {**params, "page": str(page), "limit": str(PAGE_SIZE)}
            response = self._send("GET", path, operation, params=asked)
            answer = self._parsed(response, operation)
            if key:
                answer = answer.get(key) if isinstance(answer, dict) else answer
            if answer is None and key:
                return
            if not isinstance(answer, list):
                raise Unavailable("forge", operation, f"the answer is no list; is {self.url} a forge?")
            yield from answer
            seen += len(answer)
            total = response.headers.get("X-Total-Count", "")
            more = (
                seen < int(total) if total.isdecimal() else 'rel="next"' in response.headers.get("Link", "")
            )
            if not answer or not more:
                return

    def write(self, method: str, path: str, operation: str, body: object = None) -> Any:
        """Make, change or remove one thing; returns the document that is answered, or None."""
        response = self._send(method, path, operation, json=body)
        return self._parsed(response, operation) if response.content else None

    def _send(self, method: str, path: str, operation: str, **body: Any) -> requests.Response:
        """Ask, and follow the redirects of a renamed repository: the token goes to no other host."""
        url = f"{self._root}{path}"
        for _redirect in range(REDIRECTS_MAX + 1):
            response = self._request(method, url, operation, **body)
            if not 300 <= response.status_code < 400:
                break
            target = urljoin(url, response.headers.get("Location", ""))
            if not target.startswith(f"{self._root}/"):
                where = f"it sends to {_plain(target)[:200]!r}, where the token is not taken"
                raise Unavailable("forge", operation, f"{where}; is KENNEL_FORGE_URL right?")
            url = target
            body.pop("params", None)  # they are in the new URL
        else:
            raise Unavailable("forge", operation, "it redirects in a circle")
        if not 200 <= response.status_code < 300:
            raise self._refusal(response, operation)
        return response

    def _request(self, method: str, url: str, operation: str, **body: Any) -> requests.Response:
        headers = {"Authorization": f"token {self._token}"} if self._token else {}
        try:
            with Effect("forge write", acts=method != "GET"):
                return self._session.request(
                    method, url, headers=headers, timeout=self._timeout, allow_redirects=False, **body
                )
        except requests.Timeout as exc:
            silence = f"no answer from {self.url} within {self._timeout:g} s"
            raise Unavailable("forge", operation, silence) from exc
        except requests.ConnectionError as exc:
            cause = f"cannot reach {self.url}; does it run? check KENNEL_FORGE_URL"
            raise Unavailable("forge", operation, cause) from exc
        except requests.RequestException as exc:
            raise Unavailable("forge", operation, f"half an answer ({type(exc).__name__})") from exc

    def _parsed(self, response: requests.Response, operation: str) -> Any:
        try:
            return response.json()
        except requests.JSONDecodeError as exc:
            strange = f"the answer is not JSON; is {self.url} the forge itself?"
            raise Unavailable("forge", operation, strange) from exc

    def _refusal(self, response: requests.Response, operation: str) -> Unavailable | Rejected | NotFound:
        said, status = _said(response), response.status_code
        if status >= 500 or status in {408, 429}:
            return Unavailable(
                "forge", operation, f"{status} {said or ''}".strip(), retry_after=_later(response)
            )
        if said is None:
            strange = f"{status}, and not in a forge's words; is {self.url} the forge itself?"
            return Unavailable("forge", operation, strange, retry_after=_later(response))
        if status == 401:
            why = "the token is not valid (any more): write another one into KENNEL_FORGE_TOKEN_FILE"
            return Rejected(
                "forge", operation, f"{why} ({said})" if self._token else f"it needs a token: {why}"
            )
        if status == 403:
            return _forbidden(operation, said)
        if status == 404:
            return NotFound(f"forge: {operation}: there is no such thing, or the token's user may not see it")
        return Rejected("forge", operation, f"{status} {said}")


def token(settings: Settings) -> str:
    """Read the token; empty when none is configured.

    Raises:
        ConfigError: the file cannot be read, or holds no token.
    """
    file = settings.forge_token_file
    if file is None:
        return ""
    try:
        found = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: cannot be read ({exc}); KENNEL_FORGE_TOKEN_FILE names it") from exc
    if not found.isascii() or not found.isprintable() or not found or " " in found:
        raise ConfigError(f"{file}: must hold one token and nothing else; KENNEL_FORGE_TOKEN_FILE names it")
    return found


def token_for(settings: Settings, url: str) -> str:
    """Read the token, when `url` is of the forge; empty for every other host.

    Raises:
        ConfigError: the file cannot be read, or holds no token.
    """
    return token(settings) if is_of(settings.forge_url, url) else ""


def origin(url: str) -> tuple[str, str, int]:
    """Give scheme, host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, parts.hostname or "", port


def is_of(forge_url: str, url: str) -> bool:
    """Tell whether a URL leads to the forge, and nowhere else."""
    try:
        return bool(forge_url) and origin(forge_url) == origin(url)
    except ValueError:  # a port that is none
        return False


def _forbidden(operation: str, said: str) -> Rejected:
    """Say which scope or right is missing."""
    missing = _SCOPE.search(said)
    if missing:
        advice = f"make one that has {' and '.join(SCOPES)}"
        return MissingScope("forge", operation, f"the token lacks the scope {missing[1]}: {advice}")
    return Rejected("forge", operation, f"{said}: give the token's user admin rights on the repository")


def _said(response: requests.Response) -> str | None:
    """Give the forge's own words for an error; None when the answer is not the forge's."""
    try:
        answer: Any = response.json()
    except requests.JSONDecodeError:
        return None
    said = answer.get("message") if isinstance(answer, dict) else None
    return _plain(said)[:300] if isinstance(said, str) else None


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _later(response: requests.Response) -> float | None:
    """Read Retry-After: seconds from now (RFC 9110 section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
