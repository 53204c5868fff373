"""Pushes that are told late or again: what is built is where the ref is."""

from kennel_core import builds
from kennel_core.environment import is_pull_request
from kennel_core.models import Build, Ref


def follow(overtaken: Build, head: str, now: float) -> None:
    """See to it that the commit is built that a ref is at: inside the caller's `db.write()`.

    `overtaken` is a build of another commit, which just ended for that reason: an old push that was told
    again must not have withdrawn the newest one. The next pass rings for the build.
    """
    same_ref = (Build.project == overtaken.project_id) & (Build.ref == overtaken.ref)
    if Build.select(Build.id).where(same_ref, Build.id > overtaken.id).exists():
        return  # a newer push has seen to it
    before = builds.without_log().where(same_ref, Build.id < overtaken.id).order_by(Build.id.desc()).first()
    withdrawn = before is not None and before.error == builds.superseded_by(overtaken)
    was_built = Build.select(Build.id).where(same_ref, Build.commit == head).exists()
    if is_pull_request(overtaken.ref) and not was_built:
        return  # whether that commit may be built is not decided yet
    Ref.update(head=head).where(Ref.project == overtaken.project_id, Ref.ref == overtaken.ref).execute()
    if before is None or before.commit != head or withdrawn:
        Build.create(project=overtaken.project_id, ref=overtaken.ref, commit=head, created_at=now)


def is_passed_over(build: Build, head: str) -> bool:
    """Tell whether the ref was heard to be at this commit, and nothing of it was queued."""
    same_ref = (Build.project == build.project_id) & (Build.ref == build.ref)
    heard = Ref.select(Ref.id).where(Ref.project == build.project_id, Ref.ref == build.ref, Ref.head == head)
    built = Build.select(Build.id).where(same_ref, Build.commit == head)
    return bool(heard.exists()) and not built.exists()
