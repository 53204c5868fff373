"""Run the phases of a claimed build: clone, discover, build:<package>, publish.

    clone     the files of one commit, hardened              clone.py
    discover  kennel.json by devenv, derivations by nix      discover.py
    build     one `nix build` for each package, in a pool    packages.py, results.py
    publish   store paths to a binary cache                  publish.py

A build that failed, was cancelled or was taken over by another worker leaves no process and no file behind.
"""

import time

import structlog

from kennel_core import lease
from kennel_core.errors import AdapterError, Cancelled, Fenced, Overtaken, ProjectError, Unavailable
from kennel_core.logs import escape, redact
from kennel_core.models import Build
from kennel_core.outputs import Outputs
from kennel_core.pipeline import clone, discover, packages, publish, results
from kennel_core.pipeline.job import Job
from kennel_core.settings import Settings

_logger = structlog.get_logger(__name__)


def run(build: Build, settings: Settings) -> None:
    """Work on a build that was claimed, until it is built, failed or cancelled; needs a database connection.

    Nothing is written when the lease was lost: the build is another worker's.

    Raises:
        Unavailable: the database does not answer. The lease runs out, and the build is queued again.
    """
    job = Job(build, settings)
    try:
        try:
            with job.working():
                outputs = _phases(job)
            job.log.close()
            lease.succeed(build, outputs, settings, time.time())
        except Overtaken as exc:
            job.log.close()
            lease.overtaken(build, exc.head, str(exc), time.time())
        except Cancelled as exc:
            job.log.close()
            lease.cancelled(build, str(exc), time.time())
        except (ProjectError, AdapterError) as exc:
            if isinstance(exc, Unavailable) and exc.system == "database":
                raise
            job.log.close()
            lease.fail(build, escape(redact(str(exc))), time.time())
    except Fenced as exc:
        _logger.warning(str(exc), build_id=build.id)


def _phases(job: Job) -> Outputs:
    with job.phase(clone.PHASE):
        clone.clone(job)
    with job.phase(discover.PHASE):
        discovered = discover.discover(job)
    paths = packages.build(job, discovered)
    outputs = results.outputs(job, discovered, paths)
    with job.phase(publish.PHASE):
        publish.publish(job, [*paths.values(), discovered.config_path])
    return outputs
