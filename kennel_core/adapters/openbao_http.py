"""What hvac sends its requests with here: urllib3 without `requests`, which costs twice the processor time.

Answers are plain values, read to the end and no further than ANSWER_MAX.
"""

import json as json_format
from collections.abc import Mapping
from typing import Any

import hvac
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from kennel_core.adapters.openbao_login import SYSTEM, Answer
from kennel_core.effects import Effect
from kennel_core.errors import Rejected
from kennel_core.provider import Provider

ANSWER_MAX = 48 * 1024**2  # bytes; OpenBao takes requests of 32 MiB

_RETRIES = urllib3.Retry(3, connect=0, read=False, redirect=3, status=0, other=0)  # a standby redirects


class Transport(hvac.adapters.Adapter):  # type: ignore[misc]  # hvac carries no types
    """Sends one request; gives an `Answer` whatever its status. Threads may use it at once.

    May raise what urllib3 raises, and `Rejected` for an answer that is too long.
    """

    def __init__(self, at: Provider, timeout: float, connections: int, ca: str | None) -> None:
        super().__init__(base_uri=at.url, namespace=at.namespace)
        self._timeout = urllib3.Timeout(timeout)
        self._pool = urllib3.PoolManager(maxsize=connections, ca_certs=ca or DEFAULT_CA_BUNDLE_PATH)

    def get_login_token(self, response: Answer) -> str:
        """See hvac; nothing here logs in that way."""
        return str((response.body or {})["auth"]["client_token"])

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Answer:
        """Send one request to a path below the server's address."""
        sent = {**(headers or {}), "X-Vault-Request": "true"}
        if self.token:
            sent["X-Vault-Token"] = self.token
        if self.namespace:
            sent["X-Vault-Namespace"] = self.namespace
        content = None
        if json is not None:
            content = json_format.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        with Effect("openbao write", acts=method.upper() not in {"GET", "LIST"}):
            response = self._pool.request(
                method.upper(),
                self.urljoin(self.base_uri, url),
                fields=dict(params) if params else None,
                body=content,
                headers=sent,
                timeout=self._timeout,
                retries=_RETRIES,
                preload_content=False,
            )
        try:
            data = response.read(ANSWER_MAX + 1)
        finally:
            response.release_conn()
        if len(data) > ANSWER_MAX:
            response.close()
            raise Rejected(SYSTEM, "read an answer", f"it is longer than {ANSWER_MAX >> 20} MiB")
        return Answer(response.status, _object(data))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json_format.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
