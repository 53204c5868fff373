"""The environment variables of a service. Pure.

What existing projects rely on: PORT, COMMIT_HASH and APP_URL. Beside them HOST, KENNEL_* and the URL of every
service and site of the same ref, as ``KENNEL_URL_<NAME>``.
"""

import re
from collections.abc import Mapping
from typing import Any

from kennel_core.models import Deployment
from kennel_core.settings import Settings


def configuration(
    row: Deployment, version: Mapping[str, Any], hosts: Mapping[str, str], settings: Settings
) -> list[str]:
    """Return ``NAME=value`` lines that belong to the revision: another value restarts the service.

    `version` has the columns that a rollout changes, of the row or of what is live;
    `hosts` are the generated host names of the ref by service and site.
    """
    variables = {
        "APP_URL": settings.url(version["custom_domain"] or version["host"]),
        "HOST": "127.0.0.1",
        "KENNEL_BRANCH": row.ref,
        "KENNEL_ENVIRONMENT": row.environment,
        "KENNEL_PROJECT": row.project.name,
        "KENNEL_SERVICE": row.name,
        **{f"KENNEL_URL_{_variable(name)}": settings.url(host) for name, host in hosts.items()},
    }
    return [f"{name}={value}" for name, value in sorted(variables.items())]


def environment(
    row: Deployment, version: Mapping[str, Any], hosts: Mapping[str, str], settings: Settings
) -> dict[str, str]:
    """Return the whole environment. PORT and COMMIT_HASH alone never restart a service."""
    lines = configuration(row, version, hosts, settings)
    return dict(line.split("=", 1) for line in lines) | {
        "PORT": str(version["port"]),
        "COMMIT_HASH": version["commit"],
    }


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())
