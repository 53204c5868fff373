"""The page for people."""

from html import escape

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Guestbook</title>
<style>
  :root {{ color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }}
  * {{ box-sizing: border-box; }}
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
  header {{ display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; flex-wrap: wrap; }}
  h1 {{ margin: 0; }} h2 {{ margin: 2rem 0 .5rem; font-size: 1.15rem; }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; margin: 0; }}
  dt {{ opacity: .7; }} dd {{ margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .9rem; }}
  form {{ display: flex; gap: .5rem; flex-wrap: wrap; margin: .5rem 0 1rem; }}
  input[type=text] {{ flex: 1; min-width: 8rem; }} input, button {{ font: inherit; padding: .35rem .6rem; }}
  ul {{ list-style: none; padding: 0; margin: 0; }} li {{ border-top: 1px solid var(--line); padding: .5rem 0; overflow-wrap: anywhere; }}
  small {{ opacity: .7; }}
  @media (max-width: 34rem) {{ dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom: .5rem; }} }}
  figure {{ display: flex; flex-wrap: wrap; gap: .5rem; margin: 0; }} img {{ height: 7rem; border-radius: .3rem; }}
</style>
<header><h1>{greeting}</h1><span>{who}</span></header>
<p>Visit number <b>{visits}</b> of <b>{ref}</b>, which is <b>{environment}</b>.</p>

<h2>Entries</h2>
<form method="post" action="/entries">
  <input type="text" name="words" maxlength="500" required placeholder="What would you like to say?" aria-label="What you say">
  <button>Sign the book</button>
</form>
<ul>{entries}</ul>

<h2>Pictures</h2>
<form method="post" action="/pictures" enctype="multipart/form-data">
  <input type="file" name="picture" accept="image/png,image/jpeg,image/gif,image/webp" required aria-label="A picture">
  <button>Add it</button>
</form>
<figure>{pictures}</figure>

<h2>What this branch has of its own</h2>
<dl>{own}</dl>
</html>
"""


def render(state, user):
    if user:
        who = f'{escape(user)} is logged in · <a href="/logout">log out</a>'
    elif state["login"]["client"]:
        who = 'Nobody is logged in · <a href="/login">log in</a>'
    else:
        who = "Nobody can log in here"
    entries = "".join(
        f"<li>{escape(words)}<br><small>{escape(name)}, {at}</small></li>" for name, words, at in state["entries"]
    )
    pictures = "".join(f'<img src="/pictures/{escape(key)}" alt="">' for key in state["pictures"])
    own = {
        "database": state["database"] or "none",
        "cache": state["cache"] or "none",
        "bucket": state["bucket"] or "none",
        "client of its logins": state["login"]["client"] or "none",
        "where logins return to": state["login"]["redirect_uri"],
        "commit": state["commit"],
    }
    return PAGE.format(
        greeting=escape(state["greeting"]),
        who=who,
        visits=state["visits"],
        ref=escape(state["ref"]),
        environment=escape(state["environment"]),
        entries=entries or "<li><small>Nobody has signed yet.</small></li>",
        pictures=pictures or "<small>No picture yet.</small>",
        own="".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in own.items()),
    )
