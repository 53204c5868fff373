"""The pictures, in a bucket that speaks S3: four requests, signed with AWS Signature Version 4."""

import hashlib
import hmac
import os
import re
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import unescape

NAME = os.environ.get("S3_BUCKET", "")


def _request(method, key="", query="", body=b""):
    endpoint, region = os.environ["S3_ENDPOINT"], os.environ["S3_REGION"]
    path = quote(f"/{NAME}/{key}".rstrip("/"))
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": urlsplit(endpoint).netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    signed = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\n".join([method, path, query, *lines, "", signed, digest])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key_now = f"AWS4{os.environ['S3_SECRET_KEY']}".encode()
    for part in scope.split("/"):
        key_now = hmac.digest(key_now, part.encode(), "sha256")
    signature = hmac.digest(key_now, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['S3_ACCESS_KEY']}/{scope}, "
        f"SignedHeaders={signed}, Signature={signature}"
    )
    url = f"{endpoint}{path}" + (f"?{query}" if query else "")
    data = body if method == "PUT" else None
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10)


def keys():
    """What there is, sorted."""
    with _request("GET", query="list-type=2&max-keys=50") as answer:
        return [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", answer.read().decode())]


def put(key, body):
    _request("PUT", key, body=body).close()


def get(key):
    """A picture's bytes; None where there is none."""
    try:
        with _request("GET", key) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
