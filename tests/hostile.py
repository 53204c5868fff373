"""What a hostile person can name, write, declare and build: data for tests and campaigns.

Whatever could run or make something does so under the name MARK, so that a trace of it can be found.
"""

# ruff: noqa: E501  # lines as long as what they hold
import json
from typing import Any

MARK = "PWNED"
_RUNS = f"touch${{IFS}}{MARK}"  # for a shell, and without a space

# Names of branches that git and Kennel accept: each is built.
REFS = [
    *(f"a$({_RUNS})", f"a`{_RUNS}`", f"a|{_RUNS}", f"a;{_RUNS}", f"a&{_RUNS}", f"a&&{_RUNS}", f"a||{_RUNS}"),
    *(f"a'{_RUNS}'", f'a"{_RUNS}"', f"a'b\"c{MARK}", f"'{MARK}", f'"{MARK}', f"a>{MARK}", f"a>>{MARK}"),
    *(
        f"a<{MARK}",
        f"a<<{MARK}",
        f"a<({_RUNS})",
        f"$(({MARK}))",
        f"${{{MARK}}}",
        f"$PATH/{MARK}",
        f"a!{MARK}",
    ),
    *(f"!!{MARK}", f"#{MARK}", f"a#{MARK}", f"%n%s{MARK}", f"%{MARK}%", f"a%00{MARK}", f"a%0a{MARK}"),
    *(f"a%2e%2e%2f{MARK}", f"a=b{MARK}", f"KENNEL_BIND=x{MARK}", f"a,b{MARK}", f"a+b{MARK}", f"a@b{MARK}"),
    *(f"a({MARK})", f"{{a,b}}{MARK}", f"{{{{{MARK}}}}}", f"{{%{MARK}%}}", f"{{0}}{MARK}", f"<script>{MARK}"),
    *(f"&amp;{MARK}", f"a'--{MARK}", f"a';DROP_TABLE_builds;--{MARK}", f"1'OR'1'='1{MARK}"),
    *(
        f"refs/heads/{MARK}",
        f"heads/{MARK}",
        f"origin/{MARK}",
        f"tags/{MARK}",
        "HEAD",
        "FETCH_HEAD",
        "ORIG_HEAD",
    ),
    *(
        f"pull/1/head/{MARK}",
        f"pr-x{MARK}",
        f"PR-7{MARK}",
        f"pr-7/{MARK}",
        f"pr_{MARK}",
        f"0{MARK}",
        "0",
        "1e9",
    ),
    *(f"ä/β{MARK}", f"日本語{MARK}", f"🦊{MARK}", f"e\u0301{MARK}", f"\u00e9{MARK}", f"аdmin{MARK}"),  # noqa: RUF001
    *(f"MAIN{MARK}", f"Main{MARK}", f"con{MARK}", f"nul{MARK}", f"a/b/c/d/e/f/g/h/i/j/{MARK}", f"a--b{MARK}"),
    *(f"a_{MARK}", f"_{MARK}", f"xn--{MARK}", f"a.b{MARK}", "x" * 200 + MARK, "a/" * 60 + MARK, "x" * 250),
    *(f"build:{MARK}".replace(":", "_"), f"kennel.service{MARK}", f"a.service/{MARK}", f"{MARK}.nix"),
    *(f"]]>{MARK}".replace("]]", ""), f"a{{env.HOME}}{MARK}", f"*{MARK}".replace("*", "+"), f"=1+1{MARK}"),
]

# Names that git, Kennel or both refuse.
REFUSED_REFS = [
    *(
        f"-x{MARK}",
        f"--upload-pack={MARK}",
        "-",
        "--",
        f"--exec={MARK}",
        f"-c core.pager={MARK}",
        f"--help{MARK}",
    ),
    *(
        f"../{MARK}",
        f"../../../../tmp/{MARK}",
        f"a/../{MARK}",
        "..",
        ".",
        f"./{MARK}",
        f".{MARK}",
        f"a/.{MARK}",
    ),
    *(f"/{MARK}", f"//{MARK}", f"a//{MARK}", f"{MARK}/", f"{MARK}.lock", f"{MARK}.lock/a", f"{MARK}.", "@"),
    *(f"a@{{{MARK}", f"a b{MARK}", f"a:refs/heads/{MARK}", f"+refs/*:{MARK}", f"^{MARK}", f"a~1{MARK}"),
    *(f"a?{MARK}", f"a*{MARK}", f"a[{MARK}", f"a\\{MARK}", f"a\n{MARK}", f"a\r{MARK}", f"a\t{MARK}"),
    *(
        f"a\0{MARK}",
        f"\x1b[2J{MARK}",
        f"a\x7f{MARK}",
        f"a\u2028{MARK}",
        f"a\u202e{MARK}",
        f"a\ud800{MARK}",
        "",
    ),
    *(f"a$(touch {MARK})", f"a`touch {MARK}`", f"a; touch {MARK}", "x" * 256, "x/" * 2000, f"a\x9b{MARK}"),
]

# owner/name in a delivery of another project than the one that signed it: nobody is registered by that name.
REPOSITORIES = [
    *(f"acme/$({_RUNS})", f"acme/`{_RUNS}`", f"acme/;{_RUNS}", f"acme/|{_RUNS}", f"acme/a b{MARK}"),
    *(
        "../etc/passwd",
        "acme/..",
        "acme/.",
        "/",
        "acme/",
        "/shop",
        "acme/shop/..",
        "acme//shop",
        "acme/shop/",
    ),
    *("acme/shop.git", " acme/shop", "acme/shop ", "acme/shop\n", "acme/shop\0"),
    *("acme/%", "acme/_hop", "acme/sho*", "acme/' OR 1=1 --", "acme/shop'--", 'acme/"shop"', "acme/shoр"),  # noqa: RUF001
    *("acme/\ud800", "acme/\x1b[2J", "-acme/--shop", "acme/" + "x" * 5000, "acme/{shop}", "acme/\u202epohs"),
]

# Files of a repository. Those that git itself refuses to add are in no repository.
PATHS = [
    *(f"a\n{MARK}", f"a\r{MARK}", f"a\t{MARK}", f"a\x1b[2J{MARK}", f"a\x07{MARK}", f"a b {MARK}", f" {MARK}"),
    *(
        f"-rf {MARK}",
        f"--help{MARK}",
        f"--upload-pack={MARK}",
        f"-{MARK}",
        f"$(touch {MARK})",
        f"`touch {MARK}`",
    ),
    *(
        f";touch {MARK}",
        f"|touch {MARK}",
        f"&touch {MARK}",
        f"a'{MARK}",
        f'a"{MARK}',
        f"a\\{MARK}",
        f"*{MARK}",
    ),
    *(
        f"?{MARK}",
        f"[a]{MARK}",
        f"~{MARK}",
        f"~/{MARK}",
        f"%s%n{MARK}",
        f"...{MARK}",
        f"..{MARK}/a",
        f"$HOME/{MARK}",
    ),
    *(
        f"ä{MARK}",
        f"e\u0301{MARK}",
        f"\u202e{MARK}",
        f"\u2028{MARK}",
        "x" * 200,
        "/".join(["d"] * 100) + f"/{MARK}",
    ),
    *(f".hidden{MARK}", f".config/{MARK}", ".gitconfig", ".bashrc", ".envrc", ".netrc", ".npmrc", "nix.conf"),
    *("shell.nix", "default.nix", ".nixrc", "flake.lock/a", "hooks/post-checkout", ".husky/post-checkout"),
    *(
        "config",
        "objects/info/alternates",
        "HEAD",
        "info/attributes",
        f"{MARK}.service",
        "kennel.json",
        "PATH=a",
    ),
]

# Files whose content is to run something when it is read, checked out or evaluated.
TRAPS: dict[str, str | bytes | None] = {
    ".gitattributes": f"* filter=evil diff=evil merge=evil\n*.x text eol=crlf ident export-subst\n#{MARK}\n",
    ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch {MARK}"\n\tupdate = !touch {MARK}\n',
    ".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:9/\n",
    ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {MARK}\n[core]\n\tfsmonitor = touch {MARK}\n',
    ".envrc": f"touch {MARK}\n",
    "hooks/post-checkout": f"#!/bin/sh\ntouch {MARK}\n",
    "git": f"#!/bin/sh\ntouch {MARK}\n",  # named like programs that Kennel starts
    "nix": f"#!/bin/sh\ntouch {MARK}\n",
    "devenv": f"#!/bin/sh\ntouch {MARK}\n",
    "sitecustomize.py": f"open('{MARK}', 'w')\n",
}

# Text where a payload has text that nobody checks: a message, a title, a label, a person.
TEXTS = [
    *(
        f"$(touch {MARK})",
        f"`touch {MARK}`",
        f"; touch {MARK} #",
        f"\x1b]0;{MARK}\x07\x1b[2J",
        f"a\n=== phase: {MARK}",
    ),
    *(
        f"<script>alert('{MARK}')</script>",
        f"![x](https://evil.example.org/{MARK})",
        f"[a](javascript:{MARK})",
    ),
    *(
        f"<!-- kennel:{MARK} -->",
        f"@everyone {MARK}",
        f"|{MARK}|",
        f"```\n{MARK}",
        f"\u202e{MARK}",
        f"\ud800{MARK}",
    ),
    *(
        f"\0{MARK}",
        f"'; DROP TABLE builds; -- {MARK}",
        f"{{{{{MARK}}}}}",
        f"%s%s%n{MARK}",
        f"${{jndi:ldap://{MARK}}}",
    ),
    *("x" * 100_000, "\u200b" * 1000, f"../../{MARK}", f"/kennel {MARK}", "[skip kennel" + " " * 1000 + "]"),
]

# Comments on a pull request.
COMMENTS = [
    *(f"/kennel $(touch {MARK})", f"/kennel `touch {MARK}`", f"/kennel approve ; touch {MARK}", "/kennel"),
    *(f"/kennel approve --exec={MARK}", f"/kennel approve ../../{MARK}", f"/kennel stop\n/kennel {MARK}"),
    *(
        f"/kennel\u00a0approve {MARK}",
        f"/Kennel approve {MARK}",
        f"> /kennel approve {MARK}",
        f"//kennel {MARK}",
    ),
    *(f"/kennel approve \x1b[2J{MARK}", f"/kennel approve \u202e{MARK}", f"/kennel approve \ud800{MARK}"),
    *(f"/kennel approve\0{MARK}", f"/kennel <script>{MARK}</script>", f"/kennel @everyone {MARK}"),
    *(
        f"/kennel ![x](https://evil.example.org/{MARK})",
        "/kennel " + "x" * 100_000,
        "\n" * 100_000 + "/kennel x",
    ),
    *(
        f"/kennel approve 0123456 {MARK}",
        f"/kennel redeploy main {MARK}",
        f"/kennel -- {MARK}",
        f"``/kennel {MARK}``",
    ),
]


def _service(**fields: Any) -> dict[str, Any]:
    return {"services": {"api": fields}}


def _named(name: str) -> dict[str, Any]:
    return {"services": {name: {}}}


def _site(**fields: Any) -> dict[str, Any]:
    return {"static_sites": {"web": fields}}


# kennel.json files that are refused with one sentence.
KENNEL_JSON: list[Any] = [
    *("", "nonsense", "[]", "null", '"x"', "{" * 50_000, '{"a":' * 50_000, '{"services": NaN}', "\ufeff{}"),
    *('{"services": {"api": {}}', '{"services": {"api": 9' + "9" * 10_000 + "}}", '{"services": "\\ud800"}'),
    *(
        _named(name)
        for name in ("", ".", "..", f"../{MARK}", f"/{MARK}", f"-{MARK}", f"a b{MARK}", f"a\n{MARK}")
    ),
    *(
        _named(name)
        for name in (f"$(touch {MARK})", f"a;{MARK}", f"a/{MARK}", f"\x1b[2J{MARK}", "ä", "x" * 64)
    ),
    *(
        _named(name)
        for name in (f'a"{MARK}', f"a'{MARK}", f"${{{MARK}}}", f'"; builtins.{MARK}', f"a.{MARK}")
    ),
    *(
        _service(custom_domain=name)
        for name in ("*.example.org", "localhost", "10.0.0.1", "a.internal", "a:80")
    ),
    *(
        _service(custom_domain=name)
        for name in (f"a/{MARK}.org", "a@b.org", "[::1]", f"a\n{MARK}.org", "x" * 300)
    ),
    *(
        _service(health_check={"path": path})
        for path in ("", "x", f"/ {MARK}", f"/\r\nX: {MARK}", "//a\n", 3)
    ),
    *(
        _service(health_check=check)
        for check in ({"timeout": -1}, {"timeout": 1e9}, {"timeout": "1"}, [], "some")
    ),
    *(
        _service(oidc={"redirect_paths": paths})
        for paths in ([], ["https://evil.org"], [f"/\\{MARK}"], ["x"], "/", [3])
    ),
    *(
        _site(package_attr=name)
        for name in (f"a.b{MARK}", f'"{MARK}', f"a;{MARK}", f"../{MARK}", "-x", 3, "ä")
    ),
    *(_site(spa=value) for value in ("true", 1, [], {})),
    *({"services": value} for value in ([], "x", 3, {"api": 3}, {"api": []}, {})),
    *({"version": value, **_named("api")} for value in (2, -1, "1", True, 1.5, [], 10**30)),
    *(
        {"resources": value, **_named("api")}
        for value in ("x", [3], [f"../{MARK}"], [f"a;{MARK}"], {}, ["x" * 99])
    ),
    {"services": {"api": {}}, "static_sites": {"api": {}}},
    {"preview_deployments": "no", **_named("api")},
]

# kennel.json files that are accepted, though nobody knows what they say; packages: api.
ODD_KENNEL_JSON: list[Any] = [
    {
        "services": {
            "api": {f"x\n{MARK}": f"$(touch {MARK})", "command": f"touch {MARK}", "env": {"PATH": "."}}
        }
    },
    {
        **_named("api"),
        f"../{MARK}": 1,
        "\x1b[2J": 2,
        "PATH": ".",
        "version": 1,
        "resources": [f"x{MARK}".lower()],
    },
    {
        **_named("api"),
        "__class__": {"__init__": MARK},
        "services ": {"evil": {}},
        "constructor": {"prototype": 1},
    },
    '{"services": {"evil": {}}, "services": {"api": {}}}',
]

# Builds of a site that go well and hold strange things; one derivation each.
ODD_SITES = [
    f'mkdir -p "$out/a b" "$out/$(printf "a\\nb{MARK}")" "$out/--help" "$out/-rf"; echo x > "$out/*"',
    f'mkdir $out; cd $out; for n in "%00" "%2e%2e" "..." "a\\\\b" "CON" "{MARK}.php" ".env" ".git"; do echo x > "$n"; done',
    "d=$out; for i in $(seq 1 200); do d=$d/d; done; mkdir -p $d; echo x > $d/f",
    "mkdir $out; for i in $(seq 1 3000); do : > $out/$i; done",
    "mkdir $out; ln -s . $out/self; ln -s self/self/self $out/deep; ln -s loop $out/loop; ln $out/../x y || :",
    "mkdir $out; head -c 5000000 /dev/zero > $out/big; chmod 0 $out/big; chmod 4755 $out/big",
    f'mkdir $out; printf "\\033[2J\\033]0;{MARK}\\007=== phase: publish ===\\n"; echo "@nix {{}}" >&2; : > $out/index.html',
]

# Builds of a site that fail, or whose output is refused.
BAD_SITES = [
    *("ln -s /etc $out", "mkdir $out; ln -s /etc/passwd $out/a", "mkdir -p $out/d; ln -s / $out/d/root"),
    *(
        "mkdir $out; ln -s ../../../../../../../../etc/passwd $out/x",
        "mkdir $out; ln -s /proc/self/root $out/x",
    ),
    *(
        "mkdir $out; ln -s /dev/stdin $out/x",
        "mkdir $out; ln -s /proc/self/environ $out/x",
        "touch $out",
        ":",
    ),
    *("mkdir $out; ln -s / $out/a; ln -s a/etc/passwd $out/b", "mkdir $out; mkfifo $out/pipe", "mkfifo $out"),
    *("mkdir $out; mknod $out/null c 1 3", "mkdir $out; mknod $out/disk b 8 0", "ln -s $out $out", "exit 1"),
    f'mkdir $out; ln -s "/tmp/$(printf "a\\nb{MARK}\\033[2J")" "$out/$(printf "x\\n\\033[2J{MARK}")"',
    "mkdir $out; ln -s $NIX_BUILD_TOP/x $out/x",
    "kill -9 $$",
]

# Builds of a service that go well and have no program that can be run for certain.
BAD_SERVICES = [
    *("mkdir $out", "mkdir -p $out/bin", "mkdir -p $out/bin/api", "mkdir -p $out/bin; : > $out/bin/api"),
    *("mkdir -p $out/bin; ln -s loop $out/bin/loop; ln -s loop $out/bin/api", "touch $out", "mkfifo $out"),
    *(
        "mkdir -p $out/bin; cd $out/bin; : > '-x'; : > 'a b'; chmod +x -- *",
        "mkdir $out; ln -s /nowhere $out/bin",
    ),
    f'mkdir -p $out/bin; cd $out/bin; : > "$(printf "a\\n{MARK}")"; : > "$(printf "\\033[2J")"; chmod +x *',
]

COUNT = sum(
    len(kind)
    for kind in (
        *(REFS, REFUSED_REFS, REPOSITORIES, PATHS, TRAPS, TEXTS, COMMENTS, KENNEL_JSON, ODD_KENNEL_JSON),
        *(ODD_SITES, BAD_SITES, BAD_SERVICES),
    )
)


def text_of(kennel_json: Any) -> str:
    """Give the text of a kennel.json."""
    return kennel_json if isinstance(kennel_json, str) else json.dumps(kennel_json)
