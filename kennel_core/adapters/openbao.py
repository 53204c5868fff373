"""Client for the key-value engine of OpenBao or Vault, versions 2 and 1."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3

from kennel_core import provider
from kennel_core.adapters.openbao_login import SYSTEM, Answer, Login
from kennel_core.errors import AdapterError, ConfigError, Rejected, Unavailable
from kennel_core.settings import Settings

TIMEOUT_S = 10.0
PARALLEL = 8  # requests at once, of one call
CONNECTIONS = 64  # kept open, of all threads

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a path holds. `version` is that of KV v2, None in v1."""

    fields: Mapping[str, Any]
    version: int | None


class OpenBao:
    """One KV mount, as `settings.secrets` names it. Paths are below the mount.

    Credentials are those of the settings' files, else of the environment (BAO_ROLE_ID and so on, as
    secretspec takes them). One login serves every request of every thread; a token that is refused is
    replaced once. Nothing is asked before the first call of a method.

    Any method may raise `Unavailable` (down, slow, sealed, not initialised: later) or `Rejected` (a clear no,
    such as a policy that does not allow it).

    Raises:
        ConfigError: `settings.secrets` is no provider.

    Source: https://openbao.org/api-docs/secret/kv/kv-v2/
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str] = os.environ, timeout: float = TIMEOUT_S
    ) -> None:
        try:
            self.where = provider.parse(settings.secrets, environ)
        except ValueError as exc:
            raise ConfigError(f"KENNEL_SECRETS: {exc}") from exc
        self.mount = self.where.mount
        self._timeout = timeout
        self._client = self._new_client(environ)
        self._login = Login(self.where, settings, environ, self._client, self._ask)

    def read(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """Read entries, each once, several at a time; None for what is missing or deleted."""
        return self._each(paths, self._read)

    def versions(self, paths: Iterable[str]) -> dict[str, int | None]:
        """Give the current version of entries of KV v2 without reading them; None for missing or deleted."""
        return self._each(paths, self._version)

    def write(self, path: str, fields: Mapping[str, str]) -> bool:
        """Make an entry hold these fields; others that it has stay. Returns whether anything was written.

        A write by somebody else in between is noticed in KV v2 (`Unavailable`: the next try sees it).
        """
        response = self._get(f"read {self.mount}/{path}", lambda: self._request(path))
        entry = self._entry(f"read {self.mount}/{path}", response)
        before = dict(entry.fields) if entry else {}
        if before.items() >= fields.items():
            return False
        operation = f"write {self.mount}/{path}"
        after = {**before, **fields}
        kv = self._client.secrets.kv
        if self.where.kv == 1:
            self._get(operation, lambda: kv.v1.create_or_update_secret(path, after, "POST", self.mount))
            return True
        seen = entry.version if entry else _deleted_version(response)
        self._get(
            operation, lambda: kv.v2.create_or_update_secret(path, after, cas=seen, mount_point=self.mount)
        )
        return True

    def delete(self, path: str) -> None:
        """Delete an entry with all its versions; quiet when there is none."""
        kv, operation = self._client.secrets.kv, f"delete {self.mount}/{path}"
        if self.where.kv == 1:
            self._get(operation, lambda: kv.v1.delete_secret(path, mount_point=self.mount))
        else:
            delete = kv.v2.delete_metadata_and_all_versions
            self._get(operation, lambda: delete(path, mount_point=self.mount))

    def _read(self, path: str) -> Entry | None:
        operation = f"read {self.mount}/{path}"
        return self._entry(operation, self._get(operation, lambda: self._request(path)))

    def _request(self, path: str) -> Answer:
        kv = self._client.secrets.kv
        if self.where.kv == 1:
            return kv.v1.read_secret(path, mount_point=self.mount)  # type: ignore[no-any-return]
        return kv.v2.read_secret_version(  # type: ignore[no-any-return]
            path, mount_point=self.mount, raise_on_deleted_version=False
        )

    def _entry(self, operation: str, response: Answer) -> Entry | None:
        if response.status == 404:
            return None
        try:
            data = (response.body or {})["data"]
            if self.where.kv == 1:
                return Entry(dict(data), None)
            return Entry(dict(data["data"]), int(data["metadata"]["version"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise Rejected(
                SYSTEM,
                operation,
                f"the answer is not of KV version {self.where.kv}; set kv= in KENNEL_SECRETS",
            ) from exc

    def _version(self, path: str) -> int | None:
        operation = f"read the metadata of {self.mount}/{path}"
        metadata = self._client.secrets.kv.v2.read_secret_metadata
        response = self._get(operation, lambda: metadata(path, mount_point=self.mount))
        if response.status == 404:
            return None
        try:
            data = (response.body or {})["data"]
            current = int(data["current_version"])
            state = data["versions"].get(str(current), {"destroyed": True})
        except (KeyError, TypeError, ValueError) as exc:
            raise Unavailable(SYSTEM, operation, "the answer is not that of KV version 2") from exc
        return None if state.get("destroyed") or state.get("deletion_time") else current

    def _get(self, operation: str, call: Callable[[], Answer]) -> Answer:
        """Ask with a good token; the answer is a success, or a 404 for something that is not there."""
        token = self._login.token()
        response = self._ask(operation, call)
        if response.status == 403 and self._login.replace(token):
            response = self._ask(operation, call)
        if response.ok or _is_missing(response):
            return response
        raise Rejected(SYSTEM, operation, f"{response.said}; {_remedy(response, self.where.kv)}")

    def _ask(self, operation: str, call: Callable[[], Answer]) -> Answer:
        """Send one request; the answer is JSON, and neither says "later" nor comes from somebody else."""
        url = self.where.url
        try:
            response = call()
        except urllib3.exceptions.HTTPError as exc:
            reason = getattr(exc, "reason", None) or exc
            refused = isinstance(
                reason, urllib3.exceptions.NewConnectionError
            )  # which is a TimeoutError, too
            if isinstance(reason, urllib3.exceptions.TimeoutError) and not refused:
                silence = f"no answer from {url} within {self._timeout:g} s"
                raise Unavailable(SYSTEM, operation, silence) from exc
            raise Unavailable(SYSTEM, operation, f"cannot reach {url}: {reason}; does it run?") from exc
        status = response.status
        if status in {501, 503}:
            what = (
                "is not initialised" if status == 501 else "is sealed, starting or not initialised: unseal it"
            )
            raise Unavailable(SYSTEM, operation, f"{url} {what}")
        if response.body is None and status != 204:
            raise Unavailable(SYSTEM, operation, f"{status} of {url} is not JSON; is it OpenBao?")
        if status == 429 or status >= 500 or (status == 400 and "check-and-set" in response.said):
            raise Unavailable(SYSTEM, operation, response.said)
        return response

    def _each(self, paths: Iterable[str], one: Callable[[str], T]) -> dict[str, T]:
        wanted = sorted(set(paths))
        if not wanted:
            return {}
        self._login.token()  # once, before the threads would wait for it
        with ThreadPoolExecutor(min(PARALLEL, len(wanted)), "openbao") as pool:
            futures = {path: pool.submit(one, path) for path in wanted}
            try:
                return {path: future.result() for path, future in futures.items()}
            except AdapterError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _new_client(self, environ: Mapping[str, str]) -> Any:
        import hvac  # noqa: PLC0415  # takes memory in processes that never ask

        from kennel_core.adapters.openbao_http import Transport  # noqa: PLC0415

        ca = environ.get("BAO_CACERT") or environ.get("VAULT_CACERT")
        transport = Transport(self.where, self._timeout, CONNECTIONS, ca)
        return hvac.Client(token="", adapter=lambda **_: transport)  # no token of the environment's


def _is_missing(response: Answer) -> bool:
    """Tell whether a 404 is about the entry, not about its mount."""
    body = response.body or {}
    return response.status == 404 and not body.get("errors") and not body.get("warnings")


def _deleted_version(response: Answer) -> int:
    """Give the version of the deleted entry that a 404 describes; 0 when there never was one."""
    metadata = ((response.body or {}).get("data") or {}).get("metadata") or {}
    return int(metadata.get("version", 0))


def _remedy(response: Answer, kv: int) -> str:
    if response.status in {401, 403}:
        return "give the policy of Kennel's role this path"
    if response.status == 404:
        return f"is there a KV engine of version {kv} at this mount? It is named in KENNEL_SECRETS"
    return "it is too large" if response.status == 413 else "see the log of OpenBao"
