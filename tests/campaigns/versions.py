"""The versions of the golden scenario's repository, and what building them makes."""

from pathlib import Path

from kennel_core.effects import Effect
from kennel_core.errors import BuildFailed
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.pipeline.job import Job
from kennel_core.settings import Settings

VERSIONS = ("A", "B", "C", "D", "E", "sick", "broken")
PROGRAM = """#!/usr/bin/perl
use Socket;
$SIG{PIPE} = "IGNORE";
socket(my $server, PF_INET, SOCK_STREAM, 0) or die $!;
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, sockaddr_in($ENV{PORT}, INADDR_LOOPBACK)) or die $!;
listen($server, 100);
while (1) {
    accept(my $client, $server) or next;  # who asked may be gone already
    while (<$client>) { last if /^\\r?\\n$/ }
    print $client "HTTP/1.1 STATUS\\r\\nContent-Length: 1\\r\\nConnection: close\\r\\n\\r\\nVERSION";
    close $client;
}
"""


def commit(version: str) -> str:
    """Give the commit that a version is."""
    return version.encode().hex().ljust(40, "0")


def phases(job: Job, store: Path) -> Outputs:
    """Do what the phases of the pipeline do, but for git, devenv and nix."""
    done = job.run(job.command("build", ["/bin/echo", "building"], 30))
    assert done.exit_code == 0
    version = next(name for name in VERSIONS if commit(name) == job.build.commit)
    if version == "broken":
        raise BuildFailed("build", "it does not compile")
    outputs = _outputs(store, job.settings, version)
    for item in (*outputs.services, *outputs.sites):
        root = job.root(item.name)
        root.unlink(missing_ok=True)  # of an attempt that was killed; nix replaces it, too
        with Effect("gc root"):
            root.symlink_to(item.store_path)
    return outputs


def _outputs(store: Path, settings: Settings, version: str) -> Outputs:
    service, site = store / f"{version}-api", store / f"{version}-docs"
    if not site.exists():
        (service / "bin").mkdir(parents=True)
        status = "503 No" if version == "sick" else "200 OK"
        (service / "bin/api").write_text(PROGRAM.replace("STATUS", status).replace("VERSION", version[0]))
        (service / "bin/api").chmod(0o755)
        site.mkdir()
        (site / "index.html").write_text(version)
    kinds = {"postgres": settings.postgres, "valkey": settings.valkey}
    return Outputs(
        config_path=str(store),
        resources=[kind for kind, configured in kinds.items() if configured],
        services=[
            ServiceOutput(
                name="api",
                store_path=str(service),
                command=[str(service / "bin/api")],
                health_path="/",
                health_timeout=1 if version == "sick" else 20,
            )
        ],
        sites=[SiteOutput(name="docs" if version != "B" else "blog", store_path=str(site))],
    )
