"""Where secrets are kept: the provider URI of secretspec, as far as it is OpenBao or Vault. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

_VARIABLES = {"openbao": ("BAO_", "VAULT_"), "vault": ("VAULT_",)}
_OPTIONS = {"auth", "auth_mount", "kv", "tls", "role", "audience"}  # an audience matters to CI only


@dataclass(frozen=True, slots=True)
class Provider:
    """Where secrets are kept: what secretspec's provider URI says."""

    scheme: Literal["openbao", "vault"]
    url: str
    mount: str = "secret"
    namespace: str | None = None
    kv: Literal[1, 2] = 2
    auth: Literal["token", "approle", "jwt"] = "token"
    auth_mount: str = ""
    role: str | None = None


def parse(uri: str, environ: Mapping[str, str]) -> Provider:
    """Read ``openbao://[NAMESPACE@]HOST[:PORT][/MOUNT]?auth=approle&auth_mount=&kv=1&tls=false&role=``.

    ``vault://`` is the same with the variables of Vault alone. Without a host, BAO_ADDR or VAULT_ADDR is it.

    Raises:
        ValueError: it is no such URI.

    Source: https://secretspec.dev/providers/openbao/
    """
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    scheme: Any = parts.scheme
    if scheme not in _VARIABLES:
        _wrong("must begin with openbao:// or vault://")
    if parts.password is not None:
        _wrong("must hold no password")
    if options.keys() - _OPTIONS:
        _wrong(
            f"there is no option {min(options.keys() - _OPTIONS)}; there are {', '.join(sorted(_OPTIONS))}"
        )
    auth: Any = options.get("auth", "token")
    if auth not in {"token", "approle", "jwt"}:
        _wrong("auth must be token, approle or jwt")
    kv = options.get("kv", "2").removeprefix("v")
    if kv not in {"1", "2"}:
        _wrong("kv must be 1 or 2")
    mount = unquote(parts.path).strip("/") or "secret"
    auth_mount = options.get("auth_mount", "").strip("/") or ("" if auth == "token" else auth)
    if any(not is_plain(path) for path in (mount, auth_mount) if path):
        _wrong("a mount must be a plain path such as secret")
    return Provider(
        scheme=scheme,
        url=_url(uri, scheme, environ, tls=options.get("tls") not in {"false", "0"}),
        mount=mount,
        namespace=unquote(parts.username or "") or variable(scheme, "NAMESPACE", environ),
        kv=1 if kv == "1" else 2,
        auth=auth,
        auth_mount=auth_mount,
        role=options.get("role") or variable(scheme, "JWT_ROLE", environ),
    )


def is_plain(path: str) -> bool:
    """Tell whether a path means what it says: no part that is empty, ``.`` or ``..``, nothing encoded."""
    return path.isprintable() and not set(path) & set("%\\?#") and not {"", ".", ".."} & set(path.split("/"))


def variable(scheme: str, name: str, environ: Mapping[str, str]) -> str | None:
    """Give what the environment says: BAO_<name>, else VAULT_<name>."""
    return next(filter(None, (environ.get(prefix + name) for prefix in _VARIABLES[scheme])), None)


def _url(uri: str, scheme: str, environ: Mapping[str, str], *, tls: bool) -> str:
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError:
        _wrong("the port is not a number up to 65535")
    if parts.hostname:
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{'https' if tls else 'http'}://{host}" + (f":{port}" if port else "")
    given = urlsplit(variable(scheme, "ADDR", environ) or "")
    if given.scheme not in {"http", "https"} or not given.hostname:
        _wrong("has no host, and neither has BAO_ADDR or VAULT_ADDR")
    return f"{given.scheme}://{given.netloc.rpartition('@')[2]}"


def _wrong(what: str) -> NoReturn:
    raise ValueError(what)
