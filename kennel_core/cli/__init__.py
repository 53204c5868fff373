"""``kennel``, on the command line: one module for each noun.

Data goes to standard output, everything else to standard error. Exit statuses: 0 done, 1 it failed,
2 wrong usage or settings, 3 no such thing, 4 the state does not allow it, 5 a build or a deployment failed,
69 another system does not answer, 77 a wrong signature, 78 the database or secret key is not usable,
130 interrupted. `kennel audit` has its own: 1 something was found, 2 a system did not answer.
"""

import sys

import click

from kennel_core import logs
from kennel_core.cli import (
    audit,
    audit_log,
    backup,
    build,
    deployment,
    doctor,
    migrate,
    passes,
    pr,
    project,
    resource,
    secrets,
    webhook,
)
from kennel_core.cli.context import SettingsError
from kennel_core.errors import (
    BadSignature,
    ConfigError,
    Conflict,
    KennelError,
    NotFound,
    ProjectError,
    Unavailable,
)

EXIT = (
    (SettingsError, 2),
    (NotFound, 3),
    (Conflict, 4),
    (ProjectError, 5),
    (Unavailable, 69),
    (BadSignature, 77),
    (ConfigError, 78),
    (KennelError, 1),
)
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, help="Push to deploy, on this host.")
@click.version_option(package_name="kennel", message="%(version)s")
def kennel() -> None:
    """Do nothing by itself."""


for command in (
    migrate.migrate,
    backup.backup,
    backup.restore,
    project.project,
    secrets.secrets,
    build.build,
    deployment.deployment,
    pr.pr,
    passes.plan,
    passes.reconcile,
    passes.catch_up,
    resource.resource,
    audit.audit,
    audit_log.listing,
    doctor.doctor,
    webhook.webhook,
):
    kennel.add_command(command)


def main() -> None:
    """Run the command of the process's arguments, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        status = kennel.main(arguments, prog_name="kennel", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return INTERRUPTED
    except KennelError as exc:
        lines = logs.redact(str(exc)).split("\n")
        sys.stderr.write("kennel: " + "\n".join(logs.escape(line) for line in lines) + "\n")
        return next(status for kind, status in EXIT if isinstance(exc, kind))
    return status if isinstance(status, int) else 0
