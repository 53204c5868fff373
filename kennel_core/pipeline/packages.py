"""The phases build:<package>: one `nix build` for each derivation, a few side by side."""

import re
from pathlib import Path

from kennel_core import metrics
from kennel_core.adapters.process import Command, Finished
from kennel_core.errors import BuildFailed
from kennel_core.pipeline import commands
from kennel_core.pipeline.discover import Discovered, Package
from kennel_core.pipeline.job import Job, failed


def build(job: Job, discovered: Discovered) -> dict[str, str]:
    """Build every package; returns the store path of each.

    One that fails does not stop the others, so that a push shows all that is wrong.

    Raises:
        BuildFailed: names the first package that failed, and the others.
    """
    packages = discovered.packages
    prefixes = {phase(name): _prefixes(package.name) for name, package in packages.items()}

    def command(name: str, package: Package) -> Command:
        installable = commands.derivation_installable(package.drv, package.output, discovered.nix)
        argv = commands.nix_build(installable, job.root(name))
        return job.command(phase(name), argv, job.settings.build_timeout)

    wanted = [command(name, package) for name, package in packages.items()]
    done = job.run_all(wanted, job.settings.package_jobs, strip=prefixes)
    for finished in done:
        metrics.phase_ended(finished.label, "failed" if _is_bad(finished) else "ok", finished.seconds)
    bad = [finished for finished in done if _is_bad(finished)]
    if bad:
        raise _sentence(bad)
    paths = {name: _store_path(job, name, package) for name, package in packages.items()}
    for name, path in paths.items():
        job.log.line(phase(name), path)
    return paths


def phase(package: str) -> str:
    """Name the phase that builds a package."""
    return f"build:{package}"


def _prefixes(derivation: str) -> tuple[str, ...]:
    """What `nix build -L` puts before a builder's line: the derivation's name, with or without version."""
    without_version = re.sub(r"-[^A-Za-z].*$", "", derivation)
    return (f"{derivation}> ", f"{without_version}> ")


def _is_bad(done: Finished) -> bool:
    return done.exit_code != 0 or done.timed_out


def _sentence(bad: list[Finished]) -> BuildFailed:
    names = [finished.label.removeprefix("build:") for finished in bad]
    also = f" (so did {', '.join(names[1:])})" if len(names) > 1 else ""
    what = f"nix build of package {names[0]}"
    return failed(bad[0], what, f"mend the package and push again{also}", "KENNEL_BUILD_TIMEOUT")


def _store_path(job: Job, name: str, package: Package) -> str:
    """Return the store path that was built: what the root points to, not what evaluation promised."""
    link = job.root(name)
    if package.output != "out":  # nix adds the name of any other output
        link = link.with_name(f"{link.name}-{package.output}")
    path = Path(link.readlink())
    if str(path) != package.out or not path.exists():
        raise BuildFailed(phase(name), f"nix built {path} in place of {package.out}; report this as a bug")
    return str(path)
