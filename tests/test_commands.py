"""The command lines of a build: nothing of a repository or a payload becomes an option, a path or a shell."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core.environment import git_ref
from kennel_core.pipeline import commands, discover

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERE = Path("/srv/builds/7/src")

HOSTILE_REFS = [
    "--upload-pack=touch${IFS}x",
    "-x",
    "a$(id)",
    "`id`",
    "a;reboot",
    "a|b",
    "a&b",
    "a'b\"c",
    "$HOME",
    "feat/ünïcode",
    "m\u0430in",  # a Cyrillic letter
    "x" * 300,
]
IMPOSSIBLE_REFS = [
    "",
    "../x",
    "pr-7/../../x",
    "--upload-pack=touch x",
    "a$(touch x)",
    "a..b",
    "a b",
    "a\tb",
    "a\nb",
    "a\x00b",
    "\x1b[31m",
    "a:b",
    "+a:refs/heads/main",
    "a~1",
    "a^",
    "a?",
    "a*",
    "a[b",
    "a\\b",
    "a@{1}",
    "a.lock",
    "a.lock/b",
    ".a",
    "a/.b",
    "a//b",
    "/a",
    "a/",
    "a.",
    "\ud800",
    "x" * 2000,
]


@pytest.mark.parametrize("ref", HOSTILE_REFS)
def test_a_hostile_ref_that_git_allows_is_one_operand_behind_the_dashes(ref):
    full = git_ref(ref)

    argv = commands.git_fetch(HERE, full, depth=None)

    assert commands.is_git_ref(full)
    assert argv[-3:] == ["--", "origin", f"refs/heads/{ref}"]


@pytest.mark.parametrize("ref", IMPOSSIBLE_REFS)
def test_a_ref_that_git_refuses_is_refused(ref):
    assert not commands.is_git_ref(git_ref(ref))


@pytest.mark.parametrize(
    "ref", ["main", "feat/login", "a.b", "v1.0-rc1", "@", "a@b", "ä", "a{b}", "dependabot/npm/x-1.2"]
)
def test_an_ordinary_ref_is_accepted(ref):
    assert commands.is_git_ref(git_ref(ref))


pieces = st.sampled_from(
    ["a", "B", "/", ".", "..", "@", "{", "@{", "-", ".lock", "~", " ", "\t", "*", "\\", "é", "\x7f"]
)


@given(st.lists(pieces, min_size=1, max_size=6).map("".join))
def test_git_agrees_on_what_a_ref_is(ref):
    full = f"refs/heads/{ref}"
    done = subprocess.run(["git", "check-ref-format", full], check=False)

    assert commands.is_git_ref(full) == (done.returncode == 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HEAD",
        "main",
        COMMIT[:39],
        COMMIT.upper(),
        COMMIT + "\n",
        f"-{COMMIT[1:]}",
        "--all",
        "\uff10" * 40,
        COMMIT + "0",
    ],
)
def test_only_a_whole_commit_id_is_one(text):
    assert not commands.is_commit(text)


def test_commit_ids_of_both_kinds_are_accepted():
    assert commands.is_commit(COMMIT)
    assert commands.is_commit("0" * 64)
    assert "--object-format=sha256" in commands.git_init(HERE, "0" * 64)


@pytest.mark.parametrize(
    ("url", "plain", "with_file"),
    [
        ("https://forge.example.org/a/b.git", "https", "https"),
        ("http://127.0.0.1:3000/a/b.git", "http", "http"),
        ("file:///srv/a.git", None, "file"),
        ("/srv/a.git", None, "file"),
        ("ssh://git@forge.example.org/a/b.git", None, None),
        ("git@forge.example.org:a/b.git", None, None),
        ("git://forge.example.org/a/b.git", None, None),
        ("ext::sh -c 'touch /tmp/x'", None, None),
        ("--upload-pack=touch /tmp/x", None, None),
        ("fd::17", None, None),
        ("", None, None),
        ("a/b", None, None),
    ],
)
def test_only_known_transports_are_used(url, plain, with_file):
    assert commands.protocol(url, allow_file=False) == plain
    assert commands.protocol(url, allow_file=True) == with_file


def test_the_environment_is_an_allow_list():
    parent = {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "NIX_REMOTE": "daemon",
        "HOME": "/root",
        "KENNEL_CACHIX_TOKEN_FILE": "/run/secrets/x",
        "CACHIX_AUTH_TOKEN": "hunter2",
        "NIX_CONFIG": "access-tokens = x",
        "GIT_SSH_COMMAND": "touch /tmp/x",
        "GIT_CONFIG_COUNT": "1",
        "LD_PRELOAD": "/tmp/x.so",
        "PYTHONPATH": "/tmp",
    }

    environment = commands.environment(parent, Path("/b/7/home"), Path("/b/7/tmp"))

    assert (
        environment.items()
        >= {
            "PATH": "/usr/bin",
            "LANG": "C.UTF-8",
            "NIX_REMOTE": "daemon",
            "HOME": "/b/7/home",
            "TMPDIR": "/b/7/tmp",
            "GIT_ALLOW_PROTOCOL": "https",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
        }.items()
    )
    assert not set(parent) - {"PATH", "LANG", "NIX_REMOTE", "HOME"} & set(environment)


def test_one_output_of_a_derivation_is_named_as_each_nix_wants_it():
    assert commands.derivation_installable("/nix/store/x.drv", "out", (2, 8)) == "/nix/store/x.drv"
    assert commands.derivation_installable("/nix/store/x.drv", "lib", (2, 26)) == "/nix/store/x.drv^lib"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("nix (Nix) 2.8.0\n", (2, 8)),
        ("nix (Nix) 2.26.3", (2, 26)),
        ("nix (Lix, like Nix) 2.93.0", (2, 93)),
        ("?", (99, 0)),
    ],
)
def test_the_version_of_nix_is_read(printed, version):
    assert discover.nix_version_of(printed) == version


CONFIG = f"/nix/store/{'a' * 32}-kennel-config"


@pytest.mark.parametrize(
    "printed",
    [
        f"{CONFIG}\n",
        f"some notice\n{CONFIG}\n",
        f'{{"scottylabs.kennel.config": "{CONFIG}"}}',
        f'{{\n  "scottylabs.kennel.config": "{CONFIG}",\n  "other": "/nix/store/x"\n}}\n',
        f'{{"config": "{CONFIG}"}}',
        f'a line before\n{{"scottylabs.kennel.config": "{CONFIG}"}}\n',
    ],
)
def test_both_generations_of_devenv_are_understood(printed, monkeypatch):
    monkeypatch.delenv("NIX_STORE_DIR", raising=False)

    assert discover.config_path_of(printed) == CONFIG


@pytest.mark.parametrize(
    "printed",
    ["", "nothing", "/etc/passwd", f"{CONFIG}/../../../etc", f"/x{CONFIG}", "{", "{}", "[]", '{"a": 1}',
     '{"a": "/etc", "b": "/etc"}', f"{CONFIG}/kennel.json", "/nix/store/short-x"],
)  # fmt: skip
def test_output_without_a_store_path_is_refused(printed, monkeypatch):
    monkeypatch.delenv("NIX_STORE_DIR", raising=False)

    with pytest.raises(discover.BuildFailed, match="no store path"):
        discover.config_path_of(printed)
