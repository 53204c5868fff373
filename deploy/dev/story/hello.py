"""Pushes, a push that fails, a preview, and the death of Kennel: the project `hello`."""

import json
import os
import re
import signal
import ssl
import subprocess

from story import STACK, Surprise, chapter, check, console, say
from story.browser import Browser, failures
from story.developer import Project
from story.stack import KENNEL, below, is_ready, kennel, running_units, start, wait_until

API = "hello-api-main.localhost"


def first_push(project: Project, browser: Browser) -> None:
    chapter("A first push")
    project.push("Say hello")
    status, error = project.build("main", show=True)
    check(status == "done", f"the build is live {error}".strip())
    _show_answers(project, browser, "main")


def second_push(project: Project, browser: Browser) -> None:
    chapter("A second push, under steady requests")
    (project.tree / "VERSION").write_text("2\n")
    with browser.asking_steadily(API) as seen:
        project.push("Say it better")
        status, error = project.build("main")
    say(", ".join(f"{answer}: {count}" for answer, count in sorted(seen.items())))
    check(status == "done", f"the build is live {error}".strip())
    asked = f"{sum(seen.values())}, asked twice: {len(browser.repeated)}"
    check(failures(seen) == 0, f"failed requests: {failures(seen)} of {asked}")
    check('"version": "2"' in browser.get(API)[1], "version 2 answers")


def unhealthy_push(project: Project, browser: Browser) -> None:
    chapter("A push whose service fails its health check")
    (project.tree / "VERSION").write_text("3\n")
    broken = project.tree / "api/BROKEN"
    broken.touch()
    project.push("Break it")
    status, error = project.build("main")
    console.print(f"  {status}: {error}", markup=False)
    check(status == "failed", "the build failed and says why")
    check('"version": "2"' in browser.get(API)[1], "version 2 goes on answering")
    broken.unlink()


def preview(project: Project, browser: Browser) -> str:
    """Open a pull request; gives its ref."""
    chapter("A pull request")
    (project.tree / "VERSION").write_text("4, a preview\n")
    ref = project.propose("Try something")
    status, error = project.build(ref)
    check(status == "done", f"the preview is live {error}".strip())
    _show_answers(project, browser, ref)
    return ref


def close(project: Project, browser: Browser, ref: str) -> None:
    chapter("The pull request is closed")
    gone = [row for row in project.deployments() if row["ref"] != "main"]
    units = {row["unit"] for row in gone if row["unit"]}
    project.close(ref)
    wait_until(
        "waiting until its units have ended",
        lambda: not units & running_units() and {row["ref"] for row in project.deployments()} == {"main"},
    )
    for row in gone:
        say(f"removed: {row['url']}" + (f" and {row['unit']}" if row["unit"] else ""))
    served = [row for row in gone if is_served(browser, row["hosts"][0])]
    check(gone and not served, "nothing is left")


def kill_everything(browser: Browser, processes: subprocess.Popen[bytes], env: dict[str, str]) -> None:
    chapter("kill -9 of every process of Kennel")
    before = json.loads(browser.get(API)[1])["pid"]
    with browser.asking_steadily(API) as seen:
        victims = below(processes.pid)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        processes.wait()
        check(not is_ready(env), f"{len(victims)} processes of Kennel are dead")
        start(KENNEL, STACK / "kennel.log")
        wait_until("starting Kennel again", lambda: is_ready(env))
        kennel("reconcile")
    check(failures(seen) == 0, f"failed requests meanwhile: {failures(seen)} of {sum(seen.values())}")
    after = json.loads(browser.get(API)[1])["pid"]
    check(before == after, "the service was not restarted: it is the same process")


def is_served(browser: Browser, host: str) -> bool:
    """Tell whether a host still has a route; where its certificate has been let go, the handshake fails."""
    try:
        return browser.get(host)[0] != 404
    except ssl.SSLError:
        return False


def _show_answers(project: Project, browser: Browser, ref: str) -> None:
    """Fetch every host of a ref, and show what each answers."""
    for row in project.deployments(ref):
        host = row["hosts"][0]
        status, body = browser.get(host)
        if status != 200:
            raise Surprise(f"{host} answered {status}")
        page = re.search(r"<h1>(.*?)</h1>", body)
        answer = f"a page: {page[1]}" if page else " ".join(body.split())
        say(f"{host:<30} {status}  {answer}")
