"""Deliveries as Forgejo sends them, made by Kennel itself: to try a project without a forge."""

import hashlib
import hmac
import json
import os
import subprocess
import uuid
from dataclasses import dataclass
from typing import Any

import requests

from kennel_core import environment
from kennel_core.adapters.forge import doorway
from kennel_core.errors import NotFound, Rejected, Unavailable
from kennel_core.models import Project
from kennel_core.pipeline import commands
from kennel_core.settings import Settings

TIMEOUT_S = 30.0
NO_COMMIT = "0" * 40


@dataclass(frozen=True, slots=True)
class Event:
    """`name` is that of the header X-Forgejo-Event."""

    name: str
    document: dict[str, Any]


def event(project: Project, ref: str, commit: str | None) -> Event:
    """Describe that `ref` (a branch, or ``pr-<n>``) is at `commit`, or gone when that is None. Pure."""
    repository = {
        "name": project.name,
        "full_name": project.full_name,
        "owner": {"login": project.owner, "username": project.owner},
        "clone_url": project.clone_url,
        "default_branch": project.default_branch,
    }
    if environment.is_pull_request(ref):
        number = int(ref.removeprefix("pr-"))
        sides = {"head": {"sha": commit or NO_COMMIT, "repo_id": 1}, "base": {"repo_id": 1}}
        document: dict[str, Any] = {
            "action": "synchronized" if commit else "closed",
            "number": number,
            "pull_request": {"number": number, **sides},
        }
        return Event("pull_request", document | {"repository": repository})
    if commit is None:
        return Event("delete", {"ref": ref, "ref_type": "branch", "repository": repository})
    document = {"ref": f"refs/heads/{ref}", "before": NO_COMMIT, "after": commit}
    return Event("push", document | {"repository": repository})


def deliver(url: str, event: Event, secret: str) -> dict[str, Any]:
    """POST a signed delivery; returns the answer's JSON with its `http_status`.

    Raises:
        Unavailable: nobody answers at `url`, or not with JSON.
    """
    body = json.dumps(event.document).encode()
    headers = {
        "Content-Type": "application/json",
        "X-Forgejo-Event": event.name,
        "X-Forgejo-Delivery": str(uuid.uuid4()),
        "X-Forgejo-Signature": hmac.digest(secret.encode(), body, hashlib.sha256).hex(),
    }
    try:
        with requests.Session() as session:
            session.trust_env = False  # Kennel is on this host; a proxy is for the world outside
            response = session.post(url, data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
        answer = response.json()
    except requests.JSONDecodeError as exc:
        raise Unavailable(
            "webhook", f"POST {url}", f"answered {response.status_code}, not with JSON"
        ) from exc
    except requests.RequestException as exc:
        raise Unavailable("webhook", f"POST {url}", f"{exc}; does the web process run?") from exc
    return {"http_status": response.status_code, **answer}


def commit_of(clone_url: str, ref: str, settings: Settings) -> str:
    """Ask the repository which commit `ref` is at.

    Raises:
        ConfigError: the forge's token cannot be read.
        NotFound: it has no such ref.
        Unavailable: git could not reach it within TIMEOUT_S.
    """
    full = environment.git_ref(ref)
    argv = ["git", "ls-remote", "--exit-code", "--", clone_url, full]
    protocols = "https:http:file" if settings.git_allow_file else "https:http"
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": protocols, "LC_ALL": "C"}
    access = commands.git_access(settings.forge_url, doorway.token_for(settings, clone_url))
    variables |= commands.git_config(access)
    try:
        done = subprocess.run(
            argv, env=variables, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable("git", f"ls-remote {clone_url}", str(exc)) from exc
    for line in done.stdout.splitlines():
        commit, _, name = line.partition("\t")
        if name == full:
            return commit
    if done.returncode in {0, 2}:
        raise NotFound(f"{clone_url} has no {full}")
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise Rejected("git", f"ls-remote {clone_url}", reason)
