"""Client for the part of Garage's admin API, version 2, that Kennel uses.

Source: https://garagehq.deuxfleurs.fr/api/garage-admin-v2.html, and the code of 2.5.0 for what it leaves out.
"""

from pathlib import Path
from typing import Any, Literal

import requests

from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 10.0
PAGE = 10_000  # rows of one listing
SCOPES = (
    "ListBuckets", "GetBucketInfo", "CreateBucket", "UpdateBucket", "DeleteBucket", "AddBucketAlias",
    "CleanupIncompleteUploads", "AllowBucketKey", "DenyBucketKey",
    "ListKeys", "GetKeyInfo", "ImportKey", "DeleteKey",
)  # fmt: skip
"""What the token must be allowed to do: the names of the calls below."""


class Admin:
    """One Garage, by the URL of its admin API and a file with an admin token.

    The file is read for each call, so that a new token needs no restart. Threads may share an object. Every
    call ends within about `timeout` seconds, and may raise:

    Unavailable: Garage is down or slow, has no layout or no quorum, or something else answers in its place.
    Rejected: the token is wrong or lacks a scope; Garage's own words for what it refuses.

    Buckets and keys are Garage's JSON objects. A bucket has `id`, `globalAliases`, `quotas` and `keys`
    (`accessKeyId`, `permissions`); in a listing only the first two. A key has `accessKeyId`, `name` and
    `secretAccessKey`; in a listing `id` and `name`.
    """

    def __init__(self, url: str, token_file: Path | None, timeout: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False  # the environment's proxies are for the world outside
        self._session.headers["Connection"] = "close"  # one kept open may be reset by the time it is used

    def buckets(self) -> list[dict[str, Any]]:
        """List every bucket."""
        return self._list("ListBuckets")

    def keys(self) -> list[dict[str, Any]]:
        """List every key, without its secret."""
        return self._list("ListKeys")

    def bucket(self, by: Literal["id", "globalAlias"], value: str) -> dict[str, Any] | None:
        """Look a bucket up; None when there is none."""
        return self._object("GetBucketInfo", params={by: value}, unless="NoSuchBucket")

    def create_bucket(self, alias: str, key_id: str) -> dict[str, Any] | None:
        """Create a bucket that the key may read and write, in one step; None when the alias is taken.

        The alias is a local one of the key as well: a bucket is this call's exactly when the key is on it.
        """
        allow = {"read": True, "write": True, "owner": False}
        local = {"accessKeyId": key_id, "alias": alias, "allow": allow}
        body = {"globalAlias": alias, "localAlias": local}
        return self._object("CreateBucket", body=body, unless="BucketAlreadyExists")

    def add_alias(self, bucket_id: str, alias: str) -> None:
        """Give the bucket one more global alias; refused when it leads to another bucket."""
        self._call("AddBucketAlias", body={"bucketId": bucket_id, "globalAlias": alias})

    def set_quotas(self, bucket_id: str, quotas: dict[str, int]) -> None:
        """Limit the bucket: `maxSize` in bytes, `maxObjects`."""
        self._call("UpdateBucket", params={"id": bucket_id}, body={"quotas": quotas})

    def abort_uploads(self, bucket_id: str) -> None:
        """Abort every unfinished upload, also those that a deleted bucket has left behind."""
        self._call("CleanupIncompleteUploads", body={"bucketId": bucket_id, "olderThanSecs": 0})

    def delete_bucket(self, bucket_id: str) -> bool:
        """Delete the bucket; False when there are objects in it. Quiet when it is gone.

        Garage does not count unfinished uploads as objects, and keeps them.
        """
        unless = _GONE | {"BucketNotEmpty"}
        answer = self._call("DeleteBucket", params={"id": bucket_id}, unless=unless)
        return bool(answer != "BucketNotEmpty")

    def key(self, key_id: str) -> dict[str, Any] | None:
        """Look a key up, with its secret; None when there is none."""
        params = {"id": key_id, "showSecretKey": "true"}
        return self._object("GetKeyInfo", params=params, unless="NoSuchAccessKey")

    def import_key(self, key_id: str, secret: str, name: str) -> bool:
        """Make a key of this id and secret; False when there is or ever was one of this id."""
        body = {"accessKeyId": key_id, "secretAccessKey": secret, "name": name}
        answer = self._call("ImportKey", body=body, unless={"KeyAlreadyExists"})
        return bool(answer != "KeyAlreadyExists")

    def delete_key(self, key_id: str) -> None:
        """Delete the key and all its rights. Quiet when it is gone."""
        self._call("DeleteKey", params={"id": key_id}, unless=_GONE)

    def allow(self, bucket_id: str, key_id: str) -> None:
        """Let the key read and write."""
        permissions = {"read": True, "write": True}
        body = {"bucketId": bucket_id, "accessKeyId": key_id, "permissions": permissions}
        self._call("AllowBucketKey", body=body)

    def deny(self, bucket_id: str, key_id: str) -> None:
        """Take every right on the bucket from the key. Quiet when either is gone."""
        permissions = {"read": True, "write": True, "owner": True}
        body = {"bucketId": bucket_id, "accessKeyId": key_id, "permissions": permissions}
        self._call("DenyBucketKey", body=body, unless=_GONE)

    def missing_scopes(self) -> list[str]:
        """Name what the token may not do and Kennel needs."""
        scope = self._call("GetCurrentAdminTokenInfo")["scope"]
        return [] if "*" in scope else [name for name in SCOPES if name not in scope]

    def _list(self, operation: str) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        while True:
            offset = {"offset": next(reversed(rows))} if rows else {}  # inclusive: that row comes again
            page = self._call(operation, params={"limit": str(PAGE), **offset})
            rows |= {row["id"]: row for row in page}
            if len(page) < PAGE:
                return list(rows.values())

    def _object(
        self,
        operation: str,
        *,
        params: dict[str, str] | None = None,
        body: object = None,
        unless: str,
    ) -> dict[str, Any] | None:
        answer = self._call(operation, params=params, body=body, unless={unless})
        return None if answer == unless else answer

    def _call(
        self,
        operation: str,
        *,
        params: dict[str, str] | None = None,
        body: object = None,
        unless: frozenset[str] | set[str] = frozenset(),
    ) -> Any:
        """Return the answer, or the code of an error that is one of `unless`."""
        try:
            reads = operation.startswith(("Get", "List"))
            with Effect("garage write", acts=not reads):
                response = self._session.request(
                    "GET" if reads else "POST",
                    f"{self._url}/v2/{operation}",
                    params=params,
                    json=body,
                    headers={"Authorization": f"Bearer {self._token(operation)}"},
                    timeout=self._timeout,
                    allow_redirects=False,
                )
        except requests.Timeout as exc:
            silence = f"no answer from {self._url} within {self._timeout:g} s"
            raise Unavailable("garage", operation, silence) from exc
        except requests.RequestException as exc:
            raise Unavailable("garage", operation, f"cannot reach {self._url}: {exc}; does it run?") from exc
        try:
            answer: Any = response.json()
        except requests.JSONDecodeError as exc:
            raise self._stranger(response, operation) from exc
        if response.status_code == 200:
            return answer
        code, message = _error(answer)
        if not code:
            raise self._stranger(response, operation)
        if code in unless:
            return code
        raise self._refusal(operation, response.status_code, code, message)

    def _token(self, operation: str) -> str:
        if self._token_file is None:
            raise Rejected("garage", operation, "there is no token: set KENNEL_GARAGE_TOKEN_FILE")
        try:
            return self._token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise Rejected("garage", operation, f"the token cannot be read: {exc}") from exc

    def _refusal(self, operation: str, status: int, code: str, message: str) -> Unavailable | Rejected:
        if "Layout not ready" in message:
            remedy = "no node has a role yet: `garage layout assign`, then `garage layout apply`"
            return Unavailable("garage", operation, remedy)
        if status >= 500 or status == 429:
            return Unavailable("garage", operation, f"{status} {code}: {message}")
        if status == 403:
            return self._forbidden(operation)
        return Rejected("garage", operation, f"{status} {code}: {message}")

    def _forbidden(self, operation: str) -> Rejected:
        """Tell a token that lacks a scope from one that is no good: Garage answers both alike.

        Any token may read itself.
        """
        wrong = f"the token of {self._token_file} is wrong, revoked or expired: make one with "
        make = f"`garage admin-token create --scope {','.join(SCOPES)} kennel`"
        if operation == "GetCurrentAdminTokenInfo":
            return Rejected("garage", operation, wrong + make)
        try:
            missing = self.missing_scopes()
        except (Unavailable, Rejected):
            return Rejected("garage", operation, wrong + make)
        return Rejected(
            "garage",
            operation,
            f"the token lacks the scope {', '.join(missing) or operation}: "
            f"`garage admin-token set --scope {','.join(SCOPES)} TOKEN`",
        )

    def _stranger(self, response: requests.Response, operation: str) -> Unavailable:
        said = " ".join(response.text.split())[:100]
        return Unavailable(
            "garage", operation, f"{self._url} answers {response.status_code} '{said}', which is not Garage's"
        )


_GONE = frozenset({"NoSuchBucket", "NoSuchAccessKey"})


def _error(answer: Any) -> tuple[str, str]:
    """Give Garage's code and message; empty when the answer is not Garage's."""
    if not isinstance(answer, dict) or not isinstance(answer.get("code"), str):
        return "", ""
    return answer["code"], str(answer.get("message"))
