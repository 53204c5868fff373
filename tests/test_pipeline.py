"""From a commit to store paths and rows: real git, real nix, and every way in which it can go wrong."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kennel_core import builds, db, lease, logs, pipeline, projects, refs
from kennel_core.adapters import process_tree
from kennel_core.models import Build, BuildStatus, LogChunk
from kennel_core.outputs import Outputs
from kennel_core.pipeline.discover import is_store_path
from kennel_core.pipeline.results import executable, stray_link
from kennel_core.redaction import Redactor
from kennel_core.settings import Settings
from tests.servers.git import GitRepository
from tests.servers.nix import DEVENV, Nix
from tests.waiting import until

HELLO = Path(__file__).parents[1] / "examples/hello"
FLAKE = """
{
  outputs = { self }:
    let
      system = "%(system)s";
      build = name: script: derivation {
        inherit name system;
        builder = "/bin/sh";
        args = [ "-euc" script ];
        PATH = "/usr/bin:/bin";
      };
      service = name: build name ''
        mkdir -p $out/bin
        echo '#!/bin/sh' > $out/bin/${name}
        chmod 755 $out/bin/${name}
      '';
      site = name: build name "mkdir $out; echo hello > $out/index.html";
    in { packages.${system} = { %(packages)s }; };
}
"""
DEVENV_NIX = """
{ pkgs, ... }:
{
  scottylabs.kennel.config = pkgs.runCommand "kennel-config" { json = ''%s''; passAsFile = [ "json" ]; }
    "mkdir $out; cp $jsonPath $out/kennel.json";
}
"""
Files = dict[str, str | bytes | None]


def hello() -> Files:
    """The files of the example project."""
    return {str(path.relative_to(HELLO)): path.read_bytes() for path in HELLO.rglob("*") if path.is_file()}


def project_files(packages: str, kennel_json: object = None) -> Files:
    """A project with these packages; its kennel.json declares a service `api`, unless another is given."""
    text = (
        kennel_json if isinstance(kennel_json, str) else json.dumps(kennel_json or {"services": {"api": {}}})
    )
    system = f"{os.uname().machine}-linux"
    return {"flake.nix": FLAKE % {"system": system, "packages": packages}, "devenv.nix": DEVENV_NIX % text}


class Forge:
    """A repository that is registered as a project, and builds of it."""

    def __init__(self, repository: GitRepository, settings: Settings) -> None:
        self.repository = repository
        self.settings = settings
        self.project = projects.add("acme/shop", repository.url, "main")

    def push(self, files: Files, branch: str = "main") -> str:
        commit = self.repository.commit(files)
        self.repository.push(branch)
        return commit

    def claim(self, commit: str, ref: str = "main") -> Build:
        with db.write():
            builds.enqueue(self.project, ref, commit, time.time())
        build = lease.claim(time.time())
        assert build is not None
        return build

    def build(self, commit: str, ref: str = "main", **changed: object) -> Build:
        """Queue a build and run it; returns the row that it left."""
        build = self.claim(commit, ref)
        pipeline.run(build, self.settings.model_copy(update=changed))
        return builds.get(build.id)

    def outputs(self, files: Files, **changed: object) -> Outputs:
        build = self.build(self.push(files), **changed)
        assert build.status == BuildStatus.BUILT, f"{build.error}\n{builds.full_log(build.id)}"
        return Outputs.model_validate(build.outputs)

    def refusal(self, files: Files, ref: str = "main", **changed: object) -> str:
        """Push and build what cannot be built; returns the sentence."""
        return self.error(self.build(self.push(files, ref), ref, **changed))

    def error(self, build: Build) -> str:
        """The sentence of a failed build, which left nothing behind."""
        assert build.status == BuildStatus.FAILED, build.status
        assert build.error
        assert "\n" not in build.error
        assert build.error.isprintable()
        assert list(self.settings.work_dir.iterdir()) == []
        assert LogChunk.select().count() == 0
        return build.error


@pytest.fixture
def forge(git_repo: GitRepository, settings: Settings, database: Path, nix: Nix) -> Forge:
    return Forge(git_repo, settings)


@pytest.fixture
def secret() -> Iterator[str]:
    yield "hunter2-hunter2"
    logs._secrets.clear()
    logs._redactor = Redactor(())


# --- the example


@pytest.mark.parametrize("generation", ["1", "2"])
def test_the_example_becomes_outputs(git_repo, settings, database, each_nix, generation):
    each_nix.tool("devenv", f'DEVENV_COMPAT={generation} exec {DEVENV}/devenv "$@"')
    forge = Forge(git_repo, settings)

    outputs = forge.outputs(hello())

    api, worker = outputs.services
    app, docs = outputs.sites
    assert (api.name, api.health_path) == ("api", "/api/health")
    assert (worker.name, worker.health_path, worker.health_timeout) == ("worker", "/healthz", 20)
    assert api.command == [f"{api.store_path}/bin/api"]
    assert os.access(api.command[0], os.X_OK)
    assert (app.name, app.spa, docs.name, docs.spa) == ("app", True, "docs", False)
    assert "Version <b>1</b>" in Path(docs.store_path, "index.html").read_text()
    assert outputs.resources == []
    assert Path(outputs.config_path, "kennel.json").is_file()
    paths = [outputs.config_path, *(item.store_path for item in (api, worker, app, docs))]
    assert all(is_store_path(path) for path in paths)


def test_the_phases_and_lines_of_a_build_are_in_its_log(forge):
    build = forge.build(forge.push(hello() | {"VERSION": "1 of the log\n"}))
    log = builds.full_log(build.id)

    phases = [line[11:-4] for line in log.splitlines() if line.startswith("=== phase: ")]
    assert list(dict.fromkeys(phases))[:2] == ["clone", "discover"]
    assert set(phases) == {"clone", "discover", "build:api", "build:worker", "build:docs", "build:app"}
    assert "building hello-api 1 of the log" in log.splitlines()


def test_every_output_has_a_root_that_keeps_it(forge, nix):
    outputs = forge.outputs(hello())
    paths = {outputs.config_path, *(item.store_path for item in (*outputs.services, *outputs.sites))}

    assert {str(root.readlink()) for root in forge.settings.gcroots_dir.iterdir()} == paths
    nix.run("nix", "store", "gc")

    assert all(Path(path).exists() for path in paths)
    assert list(forge.settings.work_dir.iterdir()) == []


def test_a_build_of_another_commit_builds_only_what_changed(forge):
    first = forge.outputs(hello())

    second = forge.outputs({"worker/worker.py": (HELLO / "worker/worker.py").read_text() + "# more\n"})

    assert first.services[0] == second.services[0]
    assert first.services[1] != second.services[1]
    assert first.sites == second.sites


def test_a_secretspec_file_comes_along(forge):
    outputs = forge.outputs(hello() | {"secretspec.toml": "[project]\n"})

    assert Path(outputs.config_path, "secretspec.toml").read_text() == "[project]\n"


def test_secrets_are_not_resolved_while_building(forge):
    text = (HELLO / "devenv.yaml").read_text() + "secretspec:\n  enable: true\n"

    forge.outputs(hello() | {"devenv.yaml": text})


def test_local_settings_of_the_repository_stay(forge):
    error = forge.refusal(hello() | {"devenv.local.yaml": "secretspec:\n  enable: true\n"})

    assert "secretspec" in error


# --- clone


def test_a_pull_request_is_built_from_its_head(forge):
    commit = forge.repository.commit(hello())
    forge.repository.push("refs/pull/7/head")

    assert forge.build(commit, "pr-7").status == BuildStatus.BUILT


def test_an_old_push_told_again_never_rolls_a_branch_back(forge):
    old = forge.push(hello())
    head = forge.push({"VERSION": "2\n"})
    assert forge.build(head).status == BuildStatus.BUILT

    replayed = forge.build(old)

    assert (replayed.status, replayed.error) == (BuildStatus.CANCELLED, f"main is at {head[:12]} by now")
    assert lease.claim(time.time()) is None  # the head was built before


def test_an_old_push_told_again_withdraws_the_newest_one_for_a_moment_only(forge):
    old = forge.push({"VERSION": "1\n"})
    head = forge.push(hello())
    with db.write():
        withdrawn = builds.enqueue(forge.project, "main", head, time.time())
    replayed = forge.build(old)

    assert builds.get(withdrawn.id).status == BuildStatus.CANCELLED
    assert replayed.status == BuildStatus.CANCELLED
    queued = lease.claim(time.time())
    assert (queued.commit, queued.ref) == (head, "main")


def test_a_push_that_was_missed_is_built_in_place_of_an_older_one(forge):
    old = forge.push({"VERSION": "1\n"})
    head = forge.push(hello())

    assert forge.build(old).status == BuildStatus.CANCELLED
    assert lease.claim(time.time()).commit == head


def test_a_push_that_asked_not_to_be_built_overtakes_none(forge):
    commit = forge.push(hello())
    build = forge.claim(commit)
    head = forge.push({"README": "docs [skip kennel]"})
    refs.heard(forge.project, "main", head)

    pipeline.run(build, forge.settings)

    assert builds.get(build.id).status == BuildStatus.BUILT


def test_an_older_commit_of_a_pull_request_is_overtaken(forge):
    old = forge.push({"VERSION": "1\n"}, "refs/pull/7/head")
    head = forge.push({"VERSION": "2\n"}, "refs/pull/7/head")
    assert forge.build(old, "pr-7").error == f"pr-7 is at {head[:12]} by now"
    assert lease.claim(time.time()) is None  # whether that one may be built is not decided here


def test_the_ref_of_a_pull_request_may_come_later_than_its_commit(forge):
    forge.push({"VERSION": "1\n"}, "refs/pull/7/head")
    commit = forge.push(hello(), "topic")

    assert forge.build(commit, "pr-7").status == BuildStatus.BUILT


def test_what_is_built_again_for_the_store_may_be_older_than_its_branch(forge):
    old = forge.push(hello())
    forge.push({"VERSION": "2\n"})
    build = forge.claim(old)
    build.error = builds.GONE_FROM_STORE
    pipeline.run(build, forge.settings)

    assert builds.get(build.id).status == BuildStatus.BUILT


def test_a_commit_that_was_overwritten_is_reported(forge):
    forge.push({"README": "one"})
    gone = forge.push(hello())
    forge.repository.git("reset", "--quiet", "--hard", "HEAD~1")
    forge.push({"README": "two"})
    forge.repository.git("-C", str(forge.repository.origin), "reflog", "expire", "--expire=now", "--all")
    forge.repository.git("-C", str(forge.repository.origin), "prune", "--expire=now")
    build = forge.claim(gone)
    build.error = builds.GONE_FROM_STORE
    pipeline.run(build, forge.settings)

    error = forge.error(builds.get(build.id))

    assert error.startswith("clone: ")
    assert gone[:12] in error
    assert "overwritten" in error


def test_a_branch_that_is_gone_is_reported(forge):
    forge.push({"README": "one"})
    error = forge.error(forge.build("0123456789" * 4, "feature"))

    assert error == "clone: refs/heads/feature is gone from the repository; push it again to build it"


def test_a_repository_that_is_not_there_is_reported(forge):
    commit = forge.push(hello())
    forge.project.clone_url = f"file://{forge.repository.origin}x"
    forge.project.save()

    error = forge.error(forge.build(commit))

    assert error.startswith("clone: fetching from file://")
    assert "does not appear to be a git repository" in error or "Could not read" in error


@pytest.mark.parametrize(
    "url",
    [
        "ssh://git@127.0.0.1/a",
        "ext::sh -c 'touch RAN'",
        "--upload-pack=touch RAN",
        "git@127.0.0.1:a/b",
        "\x1b[2J",
    ],
)
def test_a_hostile_clone_url_is_refused(forge, url):
    commit = forge.push(hello())
    forge.project.clone_url = url
    forge.project.save()

    assert "is not a clone URL that Kennel uses" in forge.error(forge.build(commit))


def test_files_are_no_clone_urls_unless_a_setting_says_so(forge):
    commit = forge.push(hello())

    assert "is not a clone URL" in forge.error(forge.build(commit, git_allow_file=False))


@pytest.mark.parametrize(
    "commit", ["HEAD", "--upload-pack=touch RAN", "main", "$(touch RAN)", "\x1b[2J", "a" * 39]
)
def test_a_hostile_commit_is_refused(forge, commit):
    forge.push(hello())

    assert "is not a commit id" in forge.error(forge.build(commit))


@pytest.mark.parametrize(
    "ref", ["../x", "a b", "a:refs/heads/b", "--upload-pack=touch RAN", "\x1b[31m", "x" * 3000, "a\udc80"]
)
def test_a_hostile_ref_is_refused(forge, ref):
    commit = forge.push(hello())
    build = forge.claim(commit)
    build.ref = ref  # one that no webhook should have let through

    pipeline.run(build, forge.settings)

    assert "is not a name that git accepts" in forge.error(builds.get(build.id))


@pytest.mark.parametrize(
    "ref", ["a$(touch${IFS}RAN)", "--upload-pack=touch", "-x", "a;b|c&d", "a'b\"c", "ünï", "x" * 200]
)
def test_a_strange_ref_that_git_allows_is_built(forge, ref):
    commit = forge.repository.commit(hello())
    forge.repository.push(f"refs/heads/{ref}")

    assert forge.build(commit, ref).status == BuildStatus.BUILT
    assert list(forge.settings.state_dir.rglob("RAN")) == []


def test_nothing_of_a_repository_runs_when_it_is_cloned(forge, tmp_path, git_repo):
    ran = tmp_path / "ran"
    files = hello() | {
        ".gitattributes": "* filter=evil\n",
        ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = file://{git_repo.origin}\n',
        ".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:9/\n",
        "hooks/post-checkout": f"#!/bin/sh\ntouch {ran}\n",
        "big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }
    commit = forge.push(files)
    git_repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},x")
    git_repo.git("commit", "--quiet", "--message", "Add a submodule")
    commit = git_repo.push("main")

    assert forge.build(commit).status == BuildStatus.BUILT
    assert not ran.exists()


def test_a_link_in_place_of_local_settings_is_not_followed(forge, tmp_path):
    target = tmp_path / "target"
    (forge.repository.tree / "devenv.local.yaml").symlink_to(target)

    forge.build(forge.push(hello()))

    assert not target.exists()


class OldServer(BaseHTTPRequestHandler):
    """git-http-backend for clients that speak version 0: it gives no commit by its id."""

    root: Path
    location = ""

    def do_GET(self) -> None:
        if self.location:
            self.send_response(302)
            self.send_header("Location", self.location + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        variables = {"GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path}
        variables |= {"QUERY_STRING": query, "REQUEST_METHOD": self.command, "PATH": "/usr/bin:/bin"}
        variables |= {"CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body))}
        variables |= {"HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=variables, stdout=subprocess.PIPE, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def old_server(git_repo: GitRepository) -> Iterator[Callable[..., str]]:
    """Gives the clone URL of a server that speaks version 0, or that redirects."""
    servers = []

    def serve(location: str = "") -> str:
        handler = type("Handler", (OldServer,), {"root": git_repo.origin.parent, "location": location})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_gives_no_commit_by_its_id_is_asked_for_the_ref(forge, old_server):
    forge.repository.git(
        "-C", str(forge.repository.origin), "config", "uploadpack.allowReachableSHA1InWant", "false"
    )
    commit = forge.push(hello())
    forge.push({"VERSION": "2\n"})
    forge.project.clone_url = f"{old_server()}/origin.git"
    forge.project.save()
    build = forge.claim(commit)
    build.error = builds.GONE_FROM_STORE  # else an older commit than the branch's is not built

    pipeline.run(build, forge.settings)

    build = builds.get(build.id)
    assert build.status == BuildStatus.BUILT
    assert "fetching refs/heads/main" in builds.full_log(build.id)
    docs = Outputs.model_validate(build.outputs).sites[1]
    assert "<b>1</b>" in Path(docs.store_path, "index.html").read_text()


def test_a_redirect_is_not_followed(forge, old_server):
    commit = forge.push(hello())
    forge.project.clone_url = f"{old_server(old_server())}/origin.git"
    forge.project.save()

    assert forge.error(forge.build(commit)).startswith("clone: fetching from http://127.0.0.1")


def test_a_password_in_a_clone_url_stays_out_of_log_and_error(forge):
    commit = forge.push(hello())
    forge.project.clone_url = "http://ada:correct-horse@127.0.0.1:9/a.git"
    forge.project.save()

    build = forge.build(commit)

    assert "correct-horse" not in forge.error(build) + builds.full_log(build.id)
    assert "127.0.0.1" in forge.error(build)


# --- discover


@pytest.mark.parametrize("missing", ["devenv.nix", "flake.nix"])
def test_a_missing_file_is_named(forge, missing):
    forge.push(hello())

    assert f"there is no {missing}" in forge.refusal({missing: None})


MODULE = "imports = [ inputs.scottylabs.devenvModules.default ];"


@pytest.mark.parametrize(
    ("devenv_nix", "said"),
    [
        ("{ nonsense", "syntax error"),
        ('{ ... }: throw "no way"', "no way"),
        (f"{{ inputs, ... }}: {{ {MODULE} scottylabs.kennel.servces = 1; }}", "scottylabs.kennel.servces"),
        (f"{{ inputs, ... }}: {{ {MODULE} }}", "scottylabs.kennel.config"),
    ],
)
def test_what_devenv_says_is_passed_on(forge, devenv_nix, said):
    build = forge.build(forge.push(hello() | {"devenv.nix": devenv_nix}))

    assert forge.error(build).startswith("discover: devenv build scottylabs.kennel.config failed: ")
    assert "mend devenv.nix" in forge.error(build)
    assert said in builds.full_log(build.id)


@pytest.mark.parametrize(
    ("kennel_json", "said"),
    [
        ("nonsense", "is not JSON"),
        ({"version": 2, "services": {"api": {}}}, "devenv update"),
        ({"services": {"a b": {}}}, "services.a b"),
        ({"services": {}}, "no services or static sites"),
    ],
)
def test_a_kennel_json_that_cannot_be_used_is_refused(forge, kennel_json, said):
    error = forge.refusal(project_files("", kennel_json))

    assert error.startswith("discover: kennel.json")
    assert said in error


@pytest.mark.parametrize("command", ["true", "ln -s /etc/passwd $out/kennel.json", "mkdir $out/kennel.json"])
def test_a_configuration_without_kennel_json_is_refused(forge, command):
    config = f'pkgs.runCommand "kennel-config" {{ }} "mkdir $out; {command}"'
    text = f"{{ pkgs, ... }}: {{ scottylabs.kennel.config = {config}; }}"

    assert "holds no kennel.json" in forge.refusal(project_files("") | {"devenv.nix": text})


def test_an_unknown_field_is_a_warning_in_the_log(forge):
    build = forge.build(forge.push(project_files('api = service "api";', {"services": {"api": {"x": 1}}})))

    assert build.status == BuildStatus.BUILT
    assert "warning: kennel.json: services.api.x is not known here" in builds.full_log(build.id)


def test_a_missing_package_is_named_with_those_there_are(forge):
    error = forge.refusal(project_files('web = site "web"; other = site "other";'))

    assert error.startswith("discover: flake.nix has no packages.")
    assert "linux.api, which kennel.json names" in error
    assert "(there are: other, web)" in error


def test_a_flake_without_packages_is_reported(forge):
    error = forge.refusal(project_files("") | {"flake.nix": "{ outputs = _: { }; }"})

    assert error.startswith("discover: evaluating flake.nix failed: ")
    assert "does not provide attribute" in error


def test_a_package_that_does_not_evaluate_is_named(forge):
    wanted = {"services": {"api": {}, "bad": {}}}

    error = forge.refusal(project_files('api = service "api"; bad = throw "rotten";', wanted))

    assert error == "discover: evaluating package bad failed: error: rotten; mend flake.nix"


@pytest.mark.parametrize(
    "package",
    [
        '"/etc"',
        "{ }",
        "3",
        '{ type = "derivation"; drvPath = "--help"; outPath = "/etc"; name = "x"; outputName = "out"; }',
    ],
)
def test_what_is_not_a_derivation_is_refused(forge, package):
    assert "discover: " in forge.refusal(project_files(f"api = {package};"))


def test_a_broken_package_that_nobody_names_is_no_problem(forge):
    forge.outputs(project_files('api = service "api"; unused = throw "rotten";'))


def test_an_evaluation_without_end_is_stopped(forge):
    flake = 'api = let f = n: if n == 0 then service "api" else f (n + 1); in f 1;'

    error = forge.refusal(project_files(flake), discover_timeout=3)

    assert "took too long" in error or "stack overflow" in error


# --- build


def test_a_failed_package_is_named_with_what_it_said(forge):
    build = forge.build(
        forge.push(project_files('api = build "api" "echo compiling; echo the last words >&2; exit 3";'))
    )

    assert forge.error(build).startswith("build:api: nix build of package api failed: ")
    assert "failed with exit code 3" in forge.error(build)
    log = builds.full_log(build.id)
    assert "=== phase: build:api ===" in log
    assert "\nthe last words\n" in log


def test_one_failed_package_does_not_hide_another(forge):
    wanted = {"services": {"a": {}, "b": {}, "c": {}}}
    packages = 'a = build "a" "exit 1"; b = service "b"; c = build "c" "sleep 0.3; exit 1";'

    assert "(so did c)" in forge.refusal(project_files(packages, wanted))


def test_a_package_over_its_time_is_stopped_with_its_builder(forge):
    error = forge.refusal(project_files('api = build "api" "sleep 4271";'), build_timeout=2)

    assert error.startswith("build:api: ")
    assert "KENNEL_BUILD_TIMEOUT" in error
    assert not running("4271")


def test_of_a_package_with_several_outputs_the_first_is_used(git_repo, settings, database, each_nix):
    package = """api = derivation {
      inherit system;
      name = "api";
      outputs = [ "out" "dev" ];
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      args = [ "-euc" "mkdir -p $out/bin $dev; echo > $out/bin/api; chmod 755 $out/bin/api" ];
    };"""

    outputs = Forge(git_repo, settings).outputs(project_files(package))

    assert outputs.services[0].store_path.endswith("-api")


def test_a_package_that_two_use_is_built_once(forge):
    wanted = {"static_sites": {"web": {"package_attr": "pages"}, "docs": {"package_attr": "pages"}}}

    outputs = forge.outputs(project_files('pages = site "pages";', wanted))

    assert outputs.sites[0].store_path == outputs.sites[1].store_path


def test_a_service_may_be_called_config(forge):
    outputs = forge.outputs(project_files('config = service "config";', {"services": {"config": {}}}))

    assert outputs.config_path != outputs.services[0].store_path
    assert len(list(forge.settings.gcroots_dir.iterdir())) == 2


# --- results


def a_package(root: Path, *programs: str) -> str:
    (root / "bin").mkdir()
    for name in programs:
        (root / "bin" / name).touch(mode=0o755)
    return str(root)


@pytest.mark.parametrize(
    ("programs", "main", "chosen"),
    [
        (["api", "other"], "other", "api"),
        (["quest-import", "serve"], "serve", "serve"),
        (["backend"], None, "backend"),
        (["backend", ".backend-wrapped"], None, "backend"),
        (["backend"], "../../etc/passwd", "backend"),
    ],
)
def test_the_program_of_a_service(tmp_path, programs, main, chosen):
    root = a_package(tmp_path, *programs)

    assert executable("api", root, main) == f"{root}/bin/{chosen}"


def test_a_store_path_that_is_a_program_is_run(tmp_path):
    (tmp_path / "script").touch(mode=0o755)

    assert executable("api", f"{tmp_path}/script", None) == f"{tmp_path}/script"


def test_several_programs_are_listed(forge):
    package = 'api = build "api" "mkdir -p $out/bin; cd $out/bin; touch one two; chmod 755 one two";'

    error = forge.refusal(project_files(package))

    assert error == (
        "build:api: package api has several programs and none is called api: one, two; "
        "set meta.mainProgram to the one to run"
    )


def test_the_main_program_of_a_package_is_known(forge):
    package = """api = build "api" "mkdir -p $out/bin; cd $out/bin; touch one two; chmod 755 one two"
      // { meta.mainProgram = "two"; };"""

    assert forge.outputs(project_files(package)).services[0].command[0].endswith("/bin/two")


@pytest.mark.parametrize(
    "script", ["mkdir $out", "mkdir -p $out/bin", "mkdir -p $out/bin; touch $out/bin/api", "touch $out"]
)
def test_a_service_without_a_program_is_refused(forge, script):
    assert "has no program in bin/" in forge.refusal(project_files(f'api = build "api" "{script}";'))


SITE = {"static_sites": {"web": {}}}


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("mkdir $out; ln -s /etc/passwd $out/passwd", "passwd"),
        ("mkdir -p $out/a/b; ln -s /etc $out/a/b/etc", "a/b/etc"),
        ("mkdir $out; ln -s ../../../../../../../../../../etc/passwd $out/x", "x"),
        ("mkdir $out; ln -s /nonexistent $out/x", "x"),
        ("mkdir $out; ln -s / $out/a; ln -s a/etc/passwd $out/b", ""),
        ("ln -s /etc $out", "."),
    ],
)
def test_a_site_with_a_link_that_leaves_the_store_is_refused(forge, script, named):
    error = forge.refusal(project_files(f'web = build "web" "{script}";', SITE))

    assert error.startswith("build:web: ")
    assert f"{named} of site package web is a symbolic link that leaves the store" in error
    assert "copy the file" in error


def test_links_within_the_store_are_fine(forge):
    wanted = {"static_sites": {"web": {}, "linked": {}}}
    packages = """
      web = build "web" "mkdir -p $out/d; cd $out; echo x > a; ln -s ../a d/b; ln -s $out/d e; ln -s . self;
        ln -s loop loop; ln -s ${site "other"}/index.html c; ln -s ${site "other"} other";
      linked = build "linked" "ln -s ${site "other"} $out";
    """

    linked, web = sorted(forge.outputs(project_files(packages, wanted)).sites, key=lambda site: site.name)

    assert Path(web.store_path, "c").read_text() == "hello\n"
    assert Path(linked.store_path, "index.html").read_text() == "hello\n"


def test_a_link_that_leaves_by_way_of_a_linked_folder_is_found(tmp_path):
    site, other = tmp_path / "site", tmp_path / "other"
    site.mkdir()
    other.mkdir()
    (site / "folder").symlink_to(other)
    (other / "stray").symlink_to("/etc/passwd")

    link = stray_link(str(site), {str(site), str(other)})

    assert link is not None
    assert link[1] == "/etc/passwd"


def test_a_neighbour_whose_name_begins_alike_is_not_within(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site-secret").mkdir()
    (tmp_path / "site" / "x").symlink_to(tmp_path / "site-secret")

    assert stray_link(str(tmp_path / "site"), {str(tmp_path / "site")}) is not None


def test_a_site_that_is_a_file_is_refused(forge):
    error = forge.refusal(project_files('web = build "web" "touch $out";', SITE))

    assert error == "build:web: site package web is not a folder; put its files into $out"


# --- publish


@pytest.fixture
def cachix(nix: Nix, tmp_path: Path, secret: str) -> dict[str, object]:
    """Settings that publish to a binary cache in files."""
    (tmp_path / "token").write_text(f"{secret}\n")
    nix.tool("cachix", f'CACHIX_STAND_IN_DIR={tmp_path}/caches exec {DEVENV}/cachix "$@"')
    return {"cachix_cache": "acme", "cachix_token_file": tmp_path / "token"}


def test_what_is_published_can_be_read_back_with_its_signature(forge, nix, cachix, tmp_path):
    outputs = forge.outputs(hello() | {"VERSION": "published\n"}, **cachix)
    api = outputs.services[0].store_path
    content = Path(api, "bin/api").read_bytes()
    for root in forge.settings.gcroots_dir.iterdir():
        root.unlink()
    nix.run("nix", "store", "delete", "--ignore-liveness", api)
    assert not Path(api).exists()

    def substitute(key: str) -> None:
        nix.run("nix", "build", "--no-link", api, "--option", "substituters", f"file://{tmp_path}/caches/acme",
                "--option", "trusted-public-keys", key, "--option", "require-sigs", "true")  # fmt: skip

    with pytest.raises(AssertionError):
        substitute("acme-1:" + "A" * 43 + "=")
    substitute((tmp_path / "caches/acme.pub").read_text())

    assert Path(api, "bin/api").read_bytes() == content


def test_only_publishing_sees_the_token(forge, cachix, secret, tmp_path, nix):
    publishing, seen = tmp_path / "publishing", tmp_path / "seen"
    for name in ("git", "devenv", "nix"):
        real = shutil.which(name)
        nix.tool(name, f'[ -e {publishing} ] || env >> {seen}; exec {real} "$@"')
    pushing = shutil.which("cachix")
    Path(str(pushing)).rename(tmp_path / "real-cachix")
    nix.tool("cachix", f'touch {publishing}; env > {tmp_path}/pushed; exec {tmp_path}/real-cachix "$@"')

    build = forge.build(forge.push(hello()), **cachix)

    assert build.status == BuildStatus.BUILT
    assert "All done." in builds.full_log(build.id)
    assert secret in (tmp_path / "pushed").read_text()
    assert "GIT_TERMINAL_PROMPT" in seen.read_text()
    assert secret not in seen.read_text() + builds.full_log(build.id)


def test_a_token_that_is_printed_is_left_out_of_the_log(forge, cachix, secret, nix):
    nix.tool("cachix", 'echo "token is $CACHIX_AUTH_TOKEN"; exit 1')

    build = forge.build(forge.push(hello()), **cachix)

    assert build.status == BuildStatus.BUILT
    assert "token is [redacted]" in builds.full_log(build.id)
    assert "warning: not published" in builds.full_log(build.id)


@pytest.mark.parametrize("missing", ["program", "file", "token"])
def test_a_cache_that_cannot_be_reached_does_not_stop_a_deployment(forge, cachix, nix, missing, tmp_path):
    if missing == "program":
        nix.tool("cachix", "exit 127")
    elif missing == "file":
        cachix["cachix_token_file"] = tmp_path / "no-such-file"
    else:
        cachix["cachix_token_file"] = None

    build = forge.build(forge.push(hello()), **cachix)

    assert build.status == BuildStatus.BUILT
    assert "warning: not published" in builds.full_log(build.id)


def test_what_a_pull_request_made_is_not_published(forge, cachix, tmp_path):
    commit = forge.repository.commit(hello())
    forge.repository.push("refs/pull/7/head")

    assert forge.build(commit, "pr-7", **cachix).status == BuildStatus.BUILT
    assert not (tmp_path / "caches").exists()


# --- being stopped


def running(argument: str) -> set[int]:
    """Processes that have `argument` among their arguments."""
    found = set()
    for process in process_tree.table().values():
        try:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments:
            found.add(process.pid)
    return found


def in_between(build: Build, when: Callable[[], object], act: Callable[[], None]) -> threading.Thread:
    """Do something from another connection while a build runs, as another process would."""

    def wait_and_act() -> None:
        until(when, timeout=60)
        with db.connection():
            act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_a_build_that_is_cancelled_ends_with_all_its_processes(git_repo, settings, database, each_nix):
    forge = Forge(git_repo, settings)
    deaf = "trap : TERM; while :; do setsid sleep 4272; done"  # goes on after SIGTERM, and starts another
    script = f"(setsid sleep 4272 &); setsid env -i sleep 4272 & setsid sh -c '{deaf}' & sleep 4272"
    commit = forge.push(project_files(f'api = build "api" "{script}";'))
    build = forge.claim(commit)
    thread = in_between(
        build, lambda: len(running("4272")) == 4, lambda: builds.cancel(build.id, time.time())
    )

    pipeline.run(build, settings)

    thread.join()
    ended = builds.get(build.id)
    assert (ended.status, ended.error) == (BuildStatus.CANCELLED, "cancelled by an operator")
    assert not running("4272")
    assert "=== phase: build:api ===" in builds.full_log(build.id)
    assert list(settings.work_dir.iterdir()) == []


def test_a_newer_push_stops_the_older_build(forge):
    commit = forge.push(project_files('api = build "api" "sleep 4273";'))
    build = forge.claim(commit)

    def push() -> None:
        with db.write():
            builds.enqueue(forge.project, "main", "f" * 40, time.time())

    thread = in_between(build, lambda: running("4273"), push)

    pipeline.run(build, forge.settings)

    thread.join()
    ended = builds.get(build.id)
    assert ended.status == BuildStatus.CANCELLED
    assert str(ended.error).startswith("superseded by build")
    assert not running("4273")


def test_a_worker_that_lost_its_lease_writes_nothing_more(forge):
    commit = forge.push(project_files('api = build "api" "sleep 4274";'))
    build = forge.claim(commit)

    def take_over() -> None:
        Build.update(token="another worker's").where(Build.id == build.id).execute()

    thread = in_between(build, lambda: running("4274"), take_over)

    pipeline.run(build, forge.settings)

    thread.join()
    row = Build.get_by_id(build.id)
    assert (row.status, row.token, row.error, row.log) == (
        BuildStatus.BUILDING,
        "another worker's",
        None,
        None,
    )
    assert not running("4274")


def test_what_an_earlier_attempt_left_is_removed(forge):
    build = forge.claim(forge.push(hello()))
    home = forge.settings.work_dir / f"{build.id}-{build.attempt - 1}" / "home"
    (home / "locked").mkdir(parents=True)
    (home / "locked/file").touch()
    (home / "locked").chmod(0o500)
    stray = subprocess.Popen(
        ["sleep", "4275"], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, start_new_session=True
    )

    pipeline.run(build, forge.settings)

    assert stray.wait(timeout=10) < 0
    assert builds.get(build.id).status == BuildStatus.BUILT
    assert list(forge.settings.work_dir.iterdir()) == []


@pytest.mark.parametrize("program", ["git", "devenv", "nix"])
def test_a_program_that_is_not_installed_is_named(forge, monkeypatch, nix, program):
    commit = forge.push(hello())
    nix.tools.mkdir()
    for name in {"git", "devenv", "nix"} - {program}:
        (nix.tools / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(nix.tools))

    assert f"start {program}: " in forge.error(forge.build(commit))


def test_a_build_directory_that_cannot_be_made_is_reported(forge, tmp_path):
    commit = forge.push(hello())
    build = forge.claim(commit)
    (tmp_path / "file").touch()

    pipeline.run(build, forge.settings.model_copy(update={"gcroots_dir": tmp_path / "file"}))

    assert "disk: make" in forge.error(builds.get(build.id))


# --- the log


def test_a_build_cannot_forge_the_log(forge):
    script = r"printf '=== phase: publish ===\n\033[31mred\033[0m\a\n10%%\r100%%\n\377\n'; exit 1"
    nix_text = script.replace("\\", "\\\\")

    build = forge.build(forge.push(project_files(f'api = build "api" "{nix_text}";')))

    log = builds.full_log(build.id)
    assert "=== phase: publish ===" not in log.splitlines()
    assert {"red", "100%", "\ufffd"} <= set(log.splitlines())
    assert all(character in "\n\t" or character >= " " for character in log)


def test_lines_can_be_read_while_the_build_runs(forge):
    build = forge.claim(forge.push(project_files('api = build "api" "echo early; sleep 4276";')))
    seen: list[str] = []

    def look() -> None:
        until(lambda: "\nearly\n" in builds.full_log(build.id))
        seen.append(builds.full_log(build.id))
        builds.cancel(build.id, time.time())

    thread = in_between(build, lambda: running("4276"), look)
    pipeline.run(build, forge.settings)
    thread.join()

    assert "=== phase: build:api ===" in seen[0]


def test_a_log_without_end_is_cut_and_its_end_kept(forge, monkeypatch):
    monkeypatch.setattr("kennel_core.pipeline.log.LOG_MAX", 20_000)
    build = forge.build(forge.push(project_files('api = build "api" "seq 1 100000; echo the end; exit 1";')))

    log = builds.full_log(build.id)
    assert len(log) < 200_000
    assert "lines are left out: the log became too long" in log
    assert "the end" in log.splitlines()
