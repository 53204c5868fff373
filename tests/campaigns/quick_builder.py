"""Kennel's builder, whose builds take a fifth of a second: leases, logs, processes and rows are real.

Usage: python -m tests.campaigns.quick_builder
"""

import sys
from pathlib import Path

from kennel_core import pipeline
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.pipeline.job import Job
from kennel_tasks.__main__ import main
from tests.campaigns.versions import PROGRAM

SECONDS = "0.2"


def phases(job: Job) -> Outputs:
    """Make a site that says its commit, and for some projects a service, too."""
    done = job.run(job.command("build", ["/bin/sleep", SECONDS], 30))
    assert done.exit_code == 0
    store = store_of(job.settings.state_dir) / job.build.commit
    (store / "bin").mkdir(parents=True, exist_ok=True)
    (store / "index.html").write_text(job.build.commit)
    services = []
    if job.build.project.name.startswith("service"):
        program = store / "bin/api"
        program.write_text(PROGRAM.replace("STATUS", "200 OK").replace("VERSION", "1"))
        program.chmod(0o755)
        services = [
            ServiceOutput(
                name="api",
                store_path=str(store),
                command=[str(program)],
                health_path="/",
                health_timeout=30,
            )
        ]
    root = job.root("docs")
    root.unlink(missing_ok=True)
    root.symlink_to(store)
    sites = [SiteOutput(name="docs", store_path=str(store))]
    return Outputs(config_path=str(store), services=services, sites=sites)


def store_of(state: Path) -> Path:
    """Where what is built lies: every user may read it."""
    return state.parent / "store"


if __name__ == "__main__":
    pipeline._phases = phases  # all but the real tools
    sys.exit(main(["builder"]))
