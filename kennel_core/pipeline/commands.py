"""The command lines of a build, and the environment they run in. Pure: nothing is run here.

What a repository or a payload chose never stands where an option may stand: commits are checked to be hex
digits, refs begin with ``refs/``, names of packages are checked by the manifest, and ``--`` comes before
operands.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

CONFIG_ATTRIBUTE = "scottylabs.kennel.config"
NO_SECRETSPEC = "secretspec:\n  enable: false\n"  # content of devenv.local.yaml: no secrets while building

# Everything else of the worker's environment stays out: it holds the names of Kennel's own files and secrets.
PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "LOCALE_ARCHIVE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE"),
    *(
        "NIX_REMOTE",
        "NIX_STORE_DIR",
        "NIX_STATE_DIR",
        "NIX_LOG_DIR",
        "NIX_CONF_DIR",
        "NIX_DAEMON_SOCKET_PATH",
    ),
    *("DEVENV_NIX", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)

_GIT = (
    *(
        "git",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.attributesFile=/dev/null",
        "-c",
        "core.fsmonitor=false",
    ),
    *(
        "-c",
        "submodule.recurse=false",
        "-c",
        "fetch.recurseSubmodules=false",
        "-c",
        "transfer.fsckObjects=true",
    ),
    *("-c", "http.followRedirects=false", "-c", "credential.helper=", "-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false", "-c", "advice.detachedHead=false"),
)
_NIX = ("nix", "--extra-experimental-features", "nix-command flakes")


def environment(
    parent: Mapping[str, str], home: Path, temporary: Path, protocol: str = "https"
) -> dict[str, str]:
    """Give the whole environment of a build's commands: an allow-list of `parent`, and a home of its own.

    `protocol` is the only transport that git may use.
    """
    return {name: parent[name] for name in PASSED_ON if name in parent} | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "GIT_ALLOW_PROTOCOL": protocol,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",  # no filters, no hooks, no rewritten URLs
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def protocol(url: str, *, allow_file: bool) -> str | None:
    """Name the transport of a clone URL, or None when it is not one that Kennel uses.

    https and http: a commit is fetched by its id, so plain http cannot change what is built, and a forge on
    the same host or network often has no certificate. file, and paths, only where a setting says so. Never
    ssh, git and ext: they run programs or use keys of the worker.
    """
    scheme = "file" if url.startswith("/") else urlsplit(url).scheme
    return scheme if scheme in {"https", "http"} or (scheme == "file" and allow_file) else None


def is_commit(text: str) -> bool:
    """Tell whether `text` is a whole commit id (SHA-1 or SHA-256)."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def is_git_ref(ref: str) -> bool:
    """Tell whether git accepts a full ref (git-check-ref-format(1))."""
    return (
        re.fullmatch(r"refs(/(?!\.)[^/\x00-\x20\x7f~^:?*\[\\]+)+", ref) is not None
        and re.search(r"\.\.|@\{|\.lock(/|$)|\.$", ref) is None
        and len(ref.encode(errors="replace")) <= 1024
        and not re.search(r"[\ud800-\udfff]", ref)
    )


def git_init(directory: Path, commit: str) -> list[str]:
    """Make an empty repository for commits of this kind."""
    kind = "sha256" if len(commit) == 64 else "sha1"
    return [*_GIT, "init", "--quiet", "--template=", f"--object-format={kind}", "--", str(directory)]


def git_remote(url: str, access: Mapping[str, str] = {}) -> dict[str, str]:
    """Variables that make `url` the remote ``origin``: it may hold a password, which an argv would show.

    `access` is more of git's configuration: see `git_access`.
    """
    return git_config({"remote.origin.url": url, **access})


def git_access(forge_url: str, token: str) -> dict[str, str]:
    """Configuration that lets git in where `token` does. Git sends it to URLs below `forge_url` only."""
    header = {f"http.{forge_url}/.extraHeader": f"Authorization: token {token}"}
    return header | {"http.followRedirects": "false"} if token else {}


def git_config(entries: Mapping[str, str]) -> dict[str, str]:
    """Variables that give git some configuration, which an argv would show (git-config(1), ENVIRONMENT)."""
    variables = {"GIT_CONFIG_COUNT": str(len(entries))}
    for number, (key, value) in enumerate(entries.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def git_heads() -> list[str]:
    """List the heads of branches and pull requests of the remote of `git_remote`; needs no repository.

    A server that stops answering in the middle is given up after 20 seconds.
    """
    slow = ["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20"]
    return [*_GIT, *slow, "ls-remote", "--quiet", "--", "origin", "refs/heads/*", "refs/pull/*/head"]


def git_head(ref: str) -> list[str]:
    """Ask which commit a full ref of the remote of `git_remote` is at; prints nothing when there is none."""
    return [*_GIT, "ls-remote", "--quiet", "--", "origin", ref]


def git_fetch(directory: Path, wanted: str, *, depth: int | None) -> list[str]:
    """Fetch a commit id or a full ref from the remote of `git_remote`, without tags and submodules."""
    shallow = [] if depth is None else [f"--depth={depth}"]
    options = ["--quiet", "--no-tags", "--no-recurse-submodules", *shallow]
    return [*_GIT, "-C", str(directory), "fetch", *options, "--", "origin", wanted]


def git_is_ancestor(directory: Path, older: str, newer: str) -> list[str]:
    """Ask whether one commit comes before another: exit status 0 when it does."""
    return [*_GIT, "-C", str(directory), "merge-base", "--is-ancestor", older, newer]


def git_has(directory: Path, commit: str) -> list[str]:
    """Ask whether a commit came: exit status 0 when it did."""
    return [*_GIT, "-C", str(directory), "cat-file", "-e", f"{commit}^{{commit}}"]


def git_checkout(directory: Path, commit: str) -> list[str]:
    """Put the files of exactly this commit in place."""
    return [*_GIT, "-C", str(directory), "checkout", "--quiet", "--detach", commit, "--"]


def devenv_build() -> list[str]:
    """Build the folder that holds kennel.json."""
    return ["devenv", "build", CONFIG_ATTRIBUTE]


def nix_version() -> list[str]:
    """Ask which nix it is: see `derivation_installable`."""
    return ["nix", "--version"]


def nix_evaluate(system: str, names: Iterable[str]) -> list[str]:
    """Evaluate all packages at once, as JSON.

    ``{"have": [every name], "found": {name: {"drv", "name", "out", "output", "program"}}}``; names that the
    flake does not have are missing in ``found``.
    """
    wanted = " ".join(f"{json.dumps(name)} = null;" for name in names)
    what = (
        "{ drv = p.drvPath; out = p.outPath; name = p.name; output = p.outputName; "
        "program = p.meta.mainProgram or null; }"
    )
    apply = (
        "ps: { have = builtins.attrNames ps; "
        f"found = builtins.mapAttrs (_: p: {what}) (builtins.intersectAttrs {{ {wanted} }} ps); }}"
    )
    return [*_nix("eval"), "--json", f".#packages.{system}", "--apply", apply]


def nix_evaluate_one(system: str, name: str) -> list[str]:
    """Evaluate one package: to find out which one is at fault."""
    return [*_nix("eval"), "--json", f".#packages.{system}", "--apply", f"ps: ps.{json.dumps(name)}.drvPath"]


def derivation_installable(derivation: str, output: str, version: tuple[int, ...]) -> str:
    """Name one output of a derivation for `nix build`; before 2.15 that was the derivation's path alone."""
    return f"{derivation}^{output}" if version >= (2, 15) else derivation


def nix_build(installable: str, link: Path) -> list[str]:
    """Build, with the builders' output on standard error; `link` becomes a GC root of the result.

    Two that need the same dependency wait for each other; nix looks every 5 s by default whether it is done.
    """
    return [
        *_NIX,
        "build",
        "-L",
        "--option",
        "build-poll-interval",
        "1",
        "--out-link",
        str(link),
        installable,
    ]


def nix_closure(path: str) -> list[str]:
    """List everything a store path refers to, one a line."""
    return [*_NIX, "path-info", "--recursive", path]


def cachix_push(cache: str) -> list[str]:
    """Publish; the paths come on standard input, the token in the environment."""
    return ["cachix", "push", cache]


def _nix(verb: str) -> list[str]:
    """Evaluate a flake as it is: its own nix settings are not taken over, its lock file is not written."""
    return [*_NIX, verb, "--option", "accept-flake-config", "false", "--no-write-lock-file"]
