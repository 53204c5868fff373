"""Who somebody is: OpenID Connect's authorization code flow, and cookies that only this service can have signed."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

CLIENT = os.environ.get("OIDC_CLIENT_ID", "")
PATH = "/oauth2/callback"  # as devenv.nix declares it
HOURS = 8

_key_file = os.environ.get("SIGNING_KEY")
_KEY = Path(_key_file).read_bytes() if _key_file else secrets.token_bytes(32)


def _base64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _mac(purpose, payload):
    return _base64(hmac.digest(_KEY, f"{purpose}:{payload}".encode(), "sha256"))


def sign(purpose, value, seconds):
    """A cookie's text that `check` gives the value of, until it is too old."""
    payload = _base64(json.dumps([value, time.time() + seconds]).encode())
    return f"{payload}.{_mac(purpose, payload)}"


def check(purpose, text):
    """The value that was signed for this purpose; None for what was not, or is too old."""
    payload, _, mac = (text or "").partition(".")
    if not hmac.compare_digest(mac.encode(), _mac(purpose, payload).encode()):
        return None
    value, until = json.loads(_unbase64(payload))
    return value if time.time() < until else None


def _fetch(url, form=None, headers=()):
    data = urlencode(form).encode() if form else None
    with urllib.request.urlopen(urllib.request.Request(url, data, dict(headers)), timeout=10) as answer:
        return json.load(answer)


def _provider():
    return _fetch(f"{os.environ['OIDC_ISSUER']}/.well-known/openid-configuration")


def redirect_uri():
    return os.environ["APP_URL"] + PATH


def begin():
    """Where to send the browser, and what it must bring back: a cookie's value."""
    attempt = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
    question = {
        "client_id": CLIENT,
        "redirect_uri": redirect_uri(),
        "response_type": "code",
        "scope": "openid profile",
        "state": attempt["state"],
        "nonce": attempt["nonce"],
        "code_challenge": _base64(hashlib.sha256(attempt["verifier"].encode()).digest()),
        "code_challenge_method": "S256",
    }
    return f"{_provider()['authorization_endpoint']}?{urlencode(question)}", attempt


def finish(attempt, code, state):
    """Exchange the code for who it is; None when this browser did not begin it.

    The token comes from the provider itself, which is what its signature would prove otherwise.
    """
    if not attempt or not hmac.compare_digest(attempt["state"].encode(), state.encode()):
        return None
    login = base64.b64encode(f"{CLIENT}:{os.environ['OIDC_CLIENT_SECRET']}".encode()).decode()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri(),
        "code_verifier": attempt["verifier"],
    }
    token = _fetch(_provider()["token_endpoint"], form, {"Authorization": f"Basic {login}"})["id_token"]
    claims = json.loads(_unbase64(token.split(".")[1]))
    if claims["nonce"] != attempt["nonce"] or claims["aud"] != CLIENT:
        return None
    return claims.get("name") or claims["preferred_username"]
