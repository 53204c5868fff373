"""What people asked for, and what came of it: written once, never changed."""

from kennel_core.models import AuditEntry

TEXT_MAX = 250  # characters


def note(who: str, what: str, target: str, outcome: str, now: float) -> None:
    """Write an entry. `who` is a name at the forge, or one of this host with ``@host``."""
    AuditEntry.create(at=now, who=who, what=what, target=target, outcome=outcome[:TEXT_MAX])


def recent(limit: int) -> list[AuditEntry]:
    """List entries, newest first."""
    return list(AuditEntry.select().order_by(AuditEntry.id.desc()).limit(limit))
