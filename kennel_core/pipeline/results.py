"""From store paths to outputs: which program a service runs, and whether a site is safe to serve."""

import os
from collections.abc import Mapping
from pathlib import Path

from kennel_core.errors import BuildFailed
from kennel_core.manifest import Manifest, plain
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.pipeline import commands
from kennel_core.pipeline.discover import Discovered
from kennel_core.pipeline.job import Job, failed
from kennel_core.pipeline.packages import phase

SHOWN_MAX = 10


def outputs(job: Job, discovered: Discovered, paths: Mapping[str, str]) -> Outputs:
    """Put together what the deployment rows are written from.

    Raises:
        BuildFailed: a service has no program to run, or a site holds something that must not be served.
    """
    manifest = discovered.manifest
    _check_sites(job, manifest, paths)
    return Outputs(
        config_path=discovered.config_path,
        preview_deployments=manifest.preview_deployments,
        resources=manifest.resources,
        services=[
            ServiceOutput(
                name=name,
                store_path=paths[name],
                command=[executable(name, paths[name], discovered.packages[name].program)],
                custom_domain=service.custom_domain,
                health_path=service.health.path if service.health else None,
                health_timeout=service.health.timeout if service.health else None,
                oidc=service.oidc.redirect_paths if service.oidc else None,
            )
            for name, service in manifest.services.items()
        ],
        sites=[
            SiteOutput(
                name=name, store_path=paths[site.package_attr], spa=site.spa, custom_domain=site.custom_domain
            )
            for name, site in manifest.static_sites.items()
        ],
    )


def executable(service: str, store_path: str, main_program: str | None) -> str:
    """Choose the program: bin/<service>, else meta.mainProgram, else the only entry of bin.

    A store path that is itself a program is run as it is.

    Raises:
        BuildFailed: there is none, or more than one to choose from.
    """
    root = Path(store_path)
    if root.is_file() and os.access(root, os.X_OK):
        return store_path
    programs = root / "bin"
    # what begins with a dot is what a wrapper has hidden
    entries = [entry.name for entry in programs.iterdir()] if programs.is_dir() else []
    candidates = sorted(
        name for name in entries if not name.startswith(".") and (programs / name).is_file()
        and os.access(programs / name, os.X_OK)
    )  # fmt: skip
    for name in (service, main_program, candidates[0] if len(candidates) == 1 else None):
        if name in candidates:
            return str(programs / str(name))
    if not candidates:
        raise BuildFailed(
            phase(service),
            f"package {service} has no program in bin/; install one as bin/{service} and push again",
        )
    shown = ", ".join(plain(name) for name in candidates[:SHOWN_MAX])
    raise BuildFailed(
        phase(service),
        f"package {service} has several programs and none is called {service}: {shown}; "
        "set meta.mainProgram to the one to run",
    )


def _check_sites(job: Job, manifest: Manifest, paths: Mapping[str, str]) -> None:
    for package in sorted({site.package_attr for site in manifest.static_sites.values()}):
        path = paths[package]
        if not Path(path).is_dir():
            raise BuildFailed(
                phase(package), f"site package {package} is not a folder; put its files into $out"
            )
        link = stray_link(path, {path})
        if link is not None:  # it may lead to what the site depends on: that is as fixed as the site itself
            link = stray_link(path, _closure(job, package, path))
        if link is not None:
            name, target = link
            raise BuildFailed(
                phase(package),
                f"{plain(name)} of site package {package} is a symbolic link that leaves the store, "
                f"to {plain(target)}; "
                "copy the file in place of linking it",
            )


def stray_link(root: str, allowed: set[str]) -> tuple[str, str] | None:
    """Find a symbolic link that leads out of the `allowed` store paths.

    Returns its name below `root`, and its target. What is linked to is searched, too.
    """
    start = os.path.realpath(root)
    if not _is_within(start, allowed):
        return ".", start
    seen, waiting = {start}, [start]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if not _is_within(target, allowed):
                    return os.path.relpath(entry.path, start), target
                if target not in seen and os.path.isdir(target):  # noqa: PTH112  # False for a loop of links
                    seen.add(target)
                    waiting.append(target)
    return None


def _is_within(path: str, allowed: set[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in allowed)


def _closure(job: Job, package: str, path: str) -> set[str]:
    command = job.command(
        phase(package), commands.nix_closure(path), job.settings.build_timeout, capture=True
    )
    done = job.run(command)
    if done.exit_code != 0:
        raise failed(done, "listing what the site refers to", "try again", "KENNEL_BUILD_TIMEOUT")
    return set(done.stdout.split())
