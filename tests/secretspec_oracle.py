"""Resolve specifications as secretspec itself does, in a process of its own; and make up specifications.

The wheel writes an audit log into HOME and holds the interpreter's lock while it reads: hence the process. It
reads requests from standard input, a JSON object a line, and answers with one each.
"""

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.openbao import OpenBaoServer

PROGRAM = """
import base64, json, pathlib, sys
import secretspec

file = pathlib.Path(sys.argv[1]) / "secretspec.toml"
for line in sys.stdin:
    asked = json.loads(line)
    file.write_text(asked["text"])
    try:
        found = secretspec.resolve(
            path=str(file), provider=asked["provider"], profile=asked["profile"], reason="a test"
        )
    except secretspec.MissingRequiredError as exc:
        answer = {"kind": exc.kind, "missing": exc.missing}
    except secretspec.SecretSpecError as exc:
        answer = {"kind": exc.kind, "message": str(exc)}
    else:
        paths = {one.path: name for name, one in found.secrets.items() if one.as_path}
        values = {name: one.value for name, one in found.secrets.items() if not one.as_path}
        files = {
            name: base64.b64encode(pathlib.Path(path).read_bytes()).decode() for path, name in paths.items()
        }
        answer = {"kind": "ok", "values": values, "files": files, "paths": paths,
                  "absent": found.missing_optional}
        found.close()
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """`kind` is "ok" or secretspec's name of the error."""

    kind: str
    message: str = ""
    missing: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


class Oracle:
    """secretspec, reading from one server as root."""

    def __init__(self, server: OpenBaoServer, process: subprocess.Popen[str]) -> None:
        self._server = server
        self._process = process

    def ask(self, text: str, profile: str, *, directory: str = "") -> Answer:
        """Resolve one; paths of files are written as ``{directory}/{NAME}``."""
        request = {"text": text, "profile": profile, "provider": self._server.uri()}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        paths = found.pop("paths", {})
        for name, value in found.get("values", {}).items():
            for path, file in paths.items():
                found["values"][name] = found["values"][name].replace(path, f"{directory}/{file}")
            assert value is not None
        files = {name: base64.b64decode(content) for name, content in found.pop("files", {}).items()}
        return Answer(**found, files=files)


@contextmanager
def oracle(server: OpenBaoServer, home: Path) -> Iterator[Oracle]:
    """Run secretspec for a while."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "BAO_TOKEN": server.token,
    }
    argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", PROGRAM, str(home)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process:
            yield Oracle(server, process)
            assert process.stdin is not None
            process.stdin.close()


# --- specifications that nobody would write, and some that somebody would ---

NAMES = ("A", "B", "C", "D", "E", "F")
TEXTS = (
    "plain", "", "two\nlines\n", "quo\"te's", "é😀", "${A}", "$$", "5432", " spaced ", "a\\b", "\t",
)  # fmt: skip
JSON = (
    '{"a": {"b": "deep", "n": 1.50}, "list": [1e3, "x", null, true], "": "empty"}',
    '{"list":["é"],"a":{"b":{"z":1,"a":[-0.0, 12345678901234567890123]}}}',
    '{"a":"flat","list":[]}',
    "not json",
    '["x", {"b": "in a list"}]',
)
INI = (
    "[s]\nkey = of s\n",
    "key = plain\n[s]\nkey: 'quoted # value' more\nkey = second\n; comment\n[t]\nother=1\n",
    'key="over\ntwo"\n[s]\nkey=joi\\\nned\n[s]\nkey2=again',
    "# comment\r\nkey = a=b:c\r\n\r\n[ s ]\r\nkey=\r\n[t]\r\nother = \\t\r\n",
    "[t]\n other = indented\nkey='not closed\n",
    "novalue\n",
)
POINTERS_OF = {
    "json": ("", "/a", "/a/b", "/list/0", "/list", "/list/1", "/list/01", "/a~1b", "/1/b", "/"),
    "ini": ("/key", "/s/key", "/s/key2", "/t/other"),
}
POINTERS = ("a", "/~", "/s/", "//key", "/a/b/c", "")
ENCODED = (
    "YWJj",
    "YWJj",
    "YWJj\n",
    "YWI=",
    "YWI",
    "/+8=",
    "_-8",
    "QUI=\r\n",
    "!!",
    "",
    "/w==",
    "c3=",
    "YQ==Yg==",
)
HEX = ("6162", "AbaB", "616", "", "ff\n", "6g")
ENCODINGS = ("base64", "base64url", "hex")
FORMATS = ("json", "ini")
GROUPS = ("'g'", "['g']", "['g', 'h']")
KINDS = ("at_least_one",) * 6 + ("exactly_one",)
TEMPLATES = ("${%(x)s}", "<${%(x)s}>:${%(y)s}$$", "${%(x)s}${%(x)s}", "x${%(y)s}{}", "$x${%(y)s}$$$$")
MALFORMED = ("${lower}", "${A", "none", "${Z}", "${A${B}}", "${}")
ODD = (
    "default = 1",
    "as_path = 'yes'",
    'encoding = "rot13"',
    "required = {}",
    "unknown = 3",
    'type = "foo"',
    "refs = {}",
    "description = ''",
    "required = { at_least_one = [] }",
    'extract = { format = "xml", pointer = "" }',
    "required = { any = 'g' }",
    'ref = { item = " ", field = "a" }',
    'ref = { item = "shared/x" }',
    "ref = 'x'",
    'required = { exactly_one = ["g", "g"] }',
    "required = 'true'",
    'composed = ""',
)


@dataclass(frozen=True)
class Made:
    """A specification, and what is stored for it: fields by the path below the mount."""

    text: str
    profile: str
    stored: dict[str, dict[str, str]]


def make(seed: int, project: str) -> Made:
    """Make up one; the same for the same seed."""
    dice = random.Random(seed)
    profiles = ["default", "prod"] if dice.random() < 0.8 else ["prod"]
    if dice.random() < 0.2:
        profiles.append("dev")
    lines = ["[project]", f"name = {json.dumps(project)}", 'revision = "1.0"']
    declared: set[str] = set()
    group = f"{dice.choice(KINDS)} = {dice.choice(GROUPS)}"
    grouped = set(dice.sample(NAMES, dice.choice([0, 0, 2, 3])))
    for profile in profiles:
        lines += _defaults(dice, profile)
        lines.append(f"[profiles.{profile}]")
        own = set(dice.sample(NAMES, dice.randint(0 if profile == "prod" else 2, 5)))
        if grouped and profile == profiles[0]:
            own |= grouped
        declared_before = set(declared)
        declared |= own
        for name in sorted(own):
            others = [] if name in declared_before else sorted(declared - {name})
            found = _fields(dice, others)
            if name in grouped and profile == profiles[0] and "true" not in found.get("required", ""):
                found["required"] = f"required = {{ {group} }}"
            lines.append(f"{name} = {{ {', '.join(found.values())} }}")
    profile = "prod" if dice.random() < 0.95 else dice.choice(["default", "staging"])
    text = "\n".join(lines) + "\n"
    stored = {
        f"secretspec/{project}/{dice.choice([profile, profile, 'default'])}/{name}": {
            dice.choice(["value"] * 19 + ["other"]): _value(dice, text, name)
        }
        for name in dice.sample(NAMES, dice.randint(1, 6))
    }
    return Made(text, profile, stored)


def _defaults(dice: random.Random, profile: str) -> list[str]:
    lines = []
    if dice.random() < 0.15:
        lines.append(f"inherit = {dice.choice(['true', 'false'])}")
    if dice.random() < 0.2:
        lines.append(f"required = {dice.choice(['true', 'false'])}")
    if dice.random() < 0.15:
        lines.append('default = "of the profile"')
    if dice.random() < 0.1:
        lines.append('providers = ["prod_vault"]')
    return [f"[profiles.{profile}.defaults]", *lines] if lines else []


def _fields(dice: random.Random, others: list[str]) -> dict[str, str]:
    found = {"description": 'description = "d"'} if dice.random() < 0.995 else {}
    kind = dice.random()
    if kind < 0.15 and others:
        names = {"x": dice.choice(others), "y": dice.choice(others)}
        template = dice.choice(MALFORMED if dice.random() < 0.05 else TEMPLATES) % names
        found["composed"] = f"composed = {json.dumps(template)}"
    elif kind < 0.35:
        found["encoding"] = f'encoding = "{dice.choice(ENCODINGS)}"'
    elif kind < 0.5:
        form = dice.choice(FORMATS)
        pointer = json.dumps(dice.choice(POINTERS if dice.random() < 0.03 else POINTERS_OF[form]))
        found["extract"] = f'extract = {{ format = "{form}", pointer = {pointer} }}'
    elif kind < 0.6:
        found["ref"] = f'ref = {{ item = "shared/oracle", field = "{dice.choice(NAMES[:2])}" }}'
    if dice.random() < 0.3:
        found["required"] = f"required = {dice.choice(['true', 'false', 'false'])}"
    if dice.random() < 0.2 and "composed" not in found and "true" not in found.get("required", ""):
        found["default"] = f"default = {json.dumps(dice.choice(TEXTS), ensure_ascii=False)}"
    if dice.random() < 0.25:
        found["as_path"] = f"as_path = {dice.choice(['true', 'true', 'false'])}"
    if dice.random() < 0.01:
        odd = dice.choice(ODD)
        found[odd.split(" ")[0]] = odd
    return found


def _value(dice: random.Random, text: str, key: str) -> str:
    """Make up what is stored: mostly what the last declaration of the key can be read from."""
    fields = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
    last = fields[-1] if fields else ""
    if "encoding" in last and dice.random() < 0.9:
        return dice.choice(HEX if "hex" in last else ENCODED)
    if "extract" in last and dice.random() < 0.9:
        return dice.choice(INI if '"ini"' in last else JSON)
    return dice.choice(TEXTS)
