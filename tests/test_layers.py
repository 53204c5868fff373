import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "kennel_core": {"flask", "celery", "kombu", "gunicorn", "kennel_web", "kennel_tasks"},
    "kennel_tasks": {"flask", "gunicorn", "kennel_web"},
    "kennel_web": {"celery", "kombu", "sh", "jeepney.io", "hvac", "kennel_tasks"},
}
EXCEPT = {"kennel_web/wsgi.py": {"kennel_tasks.doorbell"}}  # hands the doorbell to the application

PURE = sorted(
    path
    for path in (ROOT / "kennel_core").rglob("*.py")
    if re.search(r"\bPure[.:]", ast.get_docstring(ast.parse(path.read_text())) or "")
)
MUST_BE_PURE = {"naming", "environment", "webhook", "manifest", "commands", "plan", "routes", "caddy_config"}
EFFECTS = {
    "os", "subprocess", "socket", "time", "random", "secrets", "logging", "structlog", "requests",
    "peewee", "sh", "jeepney.io", "threading", "kennel_core.db", "kennel_core.adapters",
}  # fmt: skip
UNSEEN_BY_ADAPTERS = {"peewee", "structlog", "logging", "kennel_core.db", "kennel_core.models"}
SETTINGS_MAKERS = {
    "kennel_web/wsgi.py", "kennel_web/follow_wsgi.py", "kennel_tasks/app.py", "celeryconfig.py",
    "deploy/gunicorn.conf.py",
    "kennel_core/cli/context.py", "kennel_core/settings.py",
}  # fmt: skip


SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Give every module that a file imports, wherever in it, and each name that may be a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def within(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in sources(package):
        allowed = EXCEPT.get(str(path.relative_to(ROOT)), set())
        found = {name for name in imports(path) if within(name, PACKAGES[package])}
        assert not {name for name in found if not within(name, allowed)}, path


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_a_pure_module_neither_acts_nor_looks(path: Path) -> None:
    assert not {module for module in imports(path) if within(module, EFFECTS)}
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if is_call(node, "open", "print")]


def test_decisions_are_pure() -> None:
    assert {path.stem for path in PURE} >= MUST_BE_PURE


def is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def test_adapters_know_no_rows_and_write_no_log() -> None:
    for path in sources("kennel_core/adapters"):
        assert not {name for name in imports(path) if within(name, UNSEEN_BY_ADAPTERS)}, path


def test_settings_are_made_in_entry_points_only() -> None:
    for path in [*sources("kennel_core"), *sources("kennel_tasks"), *sources("kennel_web")]:
        if str(path.relative_to(ROOT)) in SETTINGS_MAKERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            name = getattr(called, "attr", getattr(called, "id", ""))
            assert name not in {"Settings", "load_or_exit"}, path


def test_no_command_goes_through_a_shell() -> None:
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Attribute) and ast.unparse(node) in SHELLS), path
                assert not (isinstance(node, ast.keyword) and node.arg == "shell"), path


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_can_be_held_in_the_head(package: str) -> None:
    for path in sources(package):
        assert len(path.read_text().splitlines()) <= 420, path


@pytest.mark.parametrize("module", ["kennel_web", "kennel_core.pipeline", "kennel_core.reconcile"])
def test_no_process_loads_the_client_of_a_server_before_it_asks_it(module: str) -> None:
    look = f"import sys, {module}; print(*({{'psycopg', 'hvac', 'celery'}} & sys.modules.keys()))"

    done = subprocess.run(
        [sys.executable, "-c", look], check=True, capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == ""


def test_what_catches_everything_raises_it_again() -> None:
    for package in PACKAGES:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                everything = {"Exception", "BaseException", None}
                if isinstance(node, ast.ExceptHandler) and (
                    node.type is None or getattr(node.type, "id", "") in everything
                ):
                    assert isinstance(node.body[-1], ast.Raise), f"{path}:{node.lineno}"
