"""The seam that every effect on the outside passes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core import db, effects
from kennel_core.effects import Effect
from tests.campaigns import histories
from tests.campaigns.history import History

ROOT = Path(__file__).parents[1]
# Calls that change something outside, by the name that is called last.
ACTING = {"Popen", "replace", "rename", "rmtree", "symlink_to"}
ACTING_ON = {"subprocess.run", "self._session.request", "self._pool.request", "os.unlink", "root.unlink"}
OTHERWISE = {"self._login.replace", "projects.rename"}  # of these names, and something else
NO_EFFECT = {
    "adapters/unit_files.py": "what a write that was cut short has left",
    "doctor/postgres.py": "asks",
    "doctor/programs.py": "asks",
    "delivery.py": "asks",
    "adapters/git_remote.py": "asks",
    "adapters/journal.py": "asks",
    "adapters/openbao_login.py": "logs in",
    "pipeline/job.py": "a directory that another attempt empties again",
}


def is_effect(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Name)
        and item.context_expr.func.id == "Effect"
        for item in node.items
    )


def outside(node: ast.AST) -> Iterator[ast.Call]:
    """Give the calls that no effect encloses."""
    for child in ast.iter_child_nodes(node):
        if is_effect(child):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from outside(child)


def acts(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in OTHERWISE:
        return False
    if last == "replace" and len(call.args) + len(call.keywords) > 1 and name != "os.replace":
        return False  # a string's, or that of a dataclass
    return name in ACTING_ON or last in ACTING


def test_what_acts_on_the_outside_passes_the_seam() -> None:
    core = ROOT / "kennel_core"
    found = {}
    for path in sorted(core.rglob("*.py")):
        name = str(path.relative_to(core))
        calls = [ast.unparse(call) for call in outside(ast.parse(path.read_text())) if acts(call)]
        if calls and name not in NO_EFFECT:
            found[name] = calls

    assert found == {}


@pytest.fixture
def watched() -> Iterator[list[str]]:
    found: list[str] = []
    effects.watch(lambda name, when: found.append(f"{when} {name}"))
    yield found
    effects.watch(None)


def test_an_effect_is_told_before_and_after_also_when_it_fails(watched: list[str]) -> None:
    with pytest.raises(ValueError, match="no"), Effect("write"):
        raise ValueError("no")

    assert watched == ["before write", "after write"]


def test_what_only_reads_is_not_told(watched: list[str]) -> None:
    with Effect("write", acts=False):
        pass

    assert watched == []


def test_every_write_to_the_database_passes_the_seam() -> None:
    apart: list[str] = []

    def trace(statement: str) -> None:
        writes = statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE", "REPLACE"))
        if writes and not db.database.in_transaction():
            apart.append(statement)

    with histories.silence():
        history = History()
        try:
            db.database.connection().set_trace_callback(trace)
            for ref, plan in (
                ("main", "site too"),
                ("main", "sick"),
                ("pr-1", "ok"),
                ("dev", "does not build"),
            ):
                history.push(ref, plan, late=False)
                history.work()
                history.pass_()
            history.crash(1)
            history.claim()
            history.push("main", "ok", late=False)
            history.remove("pr-1", late=False)
            history.jump(-3600)
            history.end()
        finally:
            history.close()

    assert apart == []
