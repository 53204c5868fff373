"""``kennel webhook``."""

from typing import Any

import click

from kennel_core import delivery, logs, projects
from kennel_core.cli.context import database, json_option
from kennel_core.cli.output import show

WRONG_SIGNATURE = 77


@click.group()
def webhook() -> None:
    """Stand in for the forge."""


@webhook.command()
@click.argument("name", metavar="OWNER/NAME")
@click.argument("ref", metavar="REF")
@click.option("--commit", help="Default: what git says the ref is at.")
@click.option("--gone", is_flag=True, help="The branch was deleted, or the pull request closed.")
@click.option("--url", help="Default: the web process of this host.")
@json_option
def send(  # noqa: PLR0913  # one for each option
    name: str, ref: str, commit: str | None, url: str | None, *, gone: bool, as_json: bool
) -> int:
    """Deliver a signed event: REF is a branch, or a pull request as pr-7."""
    if gone and commit:
        raise click.UsageError("--gone and --commit exclude each other")
    with database() as settings:
        project = projects.find(name)
        secret = projects.webhook_secret(project, settings.secret_key_file)
    if not gone and not commit:
        commit = delivery.commit_of(project.clone_url, ref, settings)
    address = url or f"http://{settings.bind}/webhook"
    answer = delivery.deliver(address, delivery.event(project, ref, commit), secret)
    status = answer["http_status"]
    show(answer, lambda: click.echo(logs.escape(_sentence(answer))), as_json=as_json)
    if status == 401:
        return WRONG_SIGNATURE
    return 0 if status == 202 else 1


def _sentence(answer: dict[str, Any]) -> str:
    if answer["http_status"] != 202:
        return (
            f"refused with {answer['http_status']}: {answer.get('detail') or answer.get('title') or answer}"
        )
    if "build" in answer:
        return f"build {answer['build']} of {answer['ref']} at {answer['commit'][:12]} is {answer['status']}"
    if answer.get("status") == "removed":
        return f"{answer['ref']} is removed: {' '.join(answer['deployments']) or 'it had no deployment'}"
    return f"{answer.get('status')}: {answer.get('reason')}"
