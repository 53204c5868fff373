"""Client for the few S3 calls that empty a bucket.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html and API_DeleteObjects.html
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import requests
from requests_aws4auth import AWS4Auth

from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 30.0
PAGE = 1_000  # objects of one listing, as S3 has it
AT_ONCE = 4  # calls to delete a page: Garage takes half the time of one call, and half the CPU


@dataclass
class Bucket:
    """One bucket, as one key sees it. `name` is whatever the server takes for it in a path.

    Every call ends within about `timeout` seconds.
    """

    endpoint: str
    region: str
    name: str
    key_id: str
    secret: str = field(repr=False)
    timeout: float = TIMEOUT_S

    def __post_init__(self) -> None:
        self._url = f"{self.endpoint.rstrip('/')}/{quote(self.name, safe='')}"
        self._session = requests.Session()
        self._session.trust_env = False  # the environment's proxies are for the world outside
        signature: Any = AWS4Auth(self.key_id, self.secret, self.region, "s3")
        signature.amz_cano_path = _canonical_path
        self._session.auth = signature

    def empty(self, until: float) -> int:
        """Delete every object there is; returns how many. Unfinished uploads are not objects.

        Raises:
            Unavailable: the server is down, slow or not S3; it could not delete some objects (it was asked
                for all); or it was not done at `until`, as `time.monotonic` has it: the next call goes on.
            Rejected: the server refused; its own words are in the error.
        """
        deleted = 0
        failed: set[str] = set()
        with self._session, ThreadPoolExecutor(AT_ONCE) as threads:
            for keys in self._pages():
                if time.monotonic() > until:
                    more = f"{deleted} objects deleted, there are more: the next pass goes on"
                    raise Unavailable("s3", "empty the bucket", more)
                parts = [keys[part::AT_ONCE] for part in range(AT_ONCE)]
                failed.update(filter(None, threads.map(self._delete, parts)))
                deleted += len(keys)
        if failed:
            raise Unavailable("s3", "DeleteObjects", min(failed))
        return deleted

    def _pages(self) -> Iterator[list[str]]:
        """Give the keys of all objects, page by page, until there are no more."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(PAGE)}
        token: str | None = None
        while True:
            more = {"continuation-token": token} if token else {}
            answer = self._xml("ListObjectsV2", "GET", params=query | more)
            if not answer.tag.endswith("ListBucketResult"):
                raise self._stranger("ListObjectsV2", 200, answer.tag)
            keys = [unquote(key.text or "") for key in answer.iterfind("{*}Contents/{*}Key")]
            if keys:
                yield keys
            token = answer.findtext("{*}NextContinuationToken")
            if not token:
                return

    def _delete(self, keys: list[str]) -> str | None:
        """Delete these; returns what is said of the first one that the server could not delete."""
        plain = [key for key in keys if _fits_xml(key)]
        for key in keys:
            if not _fits_xml(key):
                self._send("DeleteObject", "DELETE", f"/{quote(key, safe='')}")
        if not plain:
            return None
        objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in plain)
        body = f"<Delete>{objects}<Quiet>true</Quiet></Delete>".encode()
        answer = self._xml("DeleteObjects", "POST", params={"delete": ""}, body=body)
        if (error := answer.find("{*}Error")) is None:
            return None
        return f"{(error.findtext('{*}Key') or '')[:100]!r} and maybe more: {error.findtext('{*}Message')}"

    def _xml(
        self, operation: str, method: str, *, params: dict[str, str], body: bytes | None = None
    ) -> ET.Element:
        response = self._send(operation, method, "", params=params, body=body)
        try:
            return ET.fromstring(response.content)  # noqa: S314 - the expat below refuses entity bombs
        except ET.ParseError as exc:
            raise self._stranger(operation, response.status_code, response.text) from exc

    def _send(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> requests.Response:
        try:
            with Effect("s3 write", acts=method not in {"GET", "HEAD"}):
                response = self._session.request(
                    method,
                    f"{self._url}{path}",
                    params=params,
                    data=body,
                    timeout=self.timeout,
                    allow_redirects=False,
                )
        except requests.Timeout as exc:
            silence = f"no answer from {self.endpoint} within {self.timeout:g} s"
            raise Unavailable("s3", operation, silence) from exc
        except requests.RequestException as exc:
            raise Unavailable("s3", operation, f"cannot reach {self.endpoint}: {exc}; does it run?") from exc
        if response.status_code in {200, 204}:
            return response
        raise self._refusal(operation, response)

    def _refusal(self, operation: str, response: requests.Response) -> Unavailable | Rejected:
        status = response.status_code
        try:
            error = ET.fromstring(response.content)  # noqa: S314 - as above
        except ET.ParseError:
            return self._stranger(operation, status, response.text)
        code, message = error.findtext("{*}Code"), error.findtext("{*}Message")
        if code is None:
            return self._stranger(operation, status, response.text)
        later = status >= 500 or status == 429 or code == "NoSuchBucket"  # somebody else was faster
        kind = Unavailable if later else Rejected
        return kind("s3", operation, f"{status} {code}: {message}")

    def _stranger(self, operation: str, status: int, text: str) -> Unavailable:
        said = " ".join(text.split())[:100]
        return Unavailable("s3", operation, f"{self.endpoint} answers {status} '{said}', which is not S3's")


def _canonical_path(path: str) -> str:
    """Give the path that is signed. The library's own would fold ``//`` and ``..``, which S3 does not."""
    return quote(unquote(path), safe="/~")


def _fits_xml(key: str) -> bool:
    """Tell whether a key comes out of an XML document as it went in."""
    return key.isprintable() and key == key.strip()
