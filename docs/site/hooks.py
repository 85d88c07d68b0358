"""What `make docs` adds to MkDocs: pages and pictures made from the code, and formulae as MathML.

Formulae become MathML when the site is built, so that a reader needs neither a script nor a font nor a network for them.
"""

import re
import sys
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402
import pictures  # noqa: E402

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
SCHEMA = "envelope.schema.json"
EXAMPLE = re.compile(r"\]\((?:\.\./)+examples/(\w+)\.py\)")
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)[^>]+(?:src|href)="?(?:https?:)?//""")
UNREAD = re.compile(r"<p>(?:\?\?\?|!!!|===)\+? |\|---\|")
PICTURES = "pictures"
made = {}


def on_config(config):
    """The navigation goes on with the studies of the registry, the API, a page a room, and the decisions in their order."""
    for part in config["nav"]:
        if "Studies" in part:
            part["Studies"] += pages.studies()
    api = [{"Overview": "api/index.md"}, *({room: f"api/{room}.md"} for room in pages.rooms())]
    decisions = [
        {pages.title(path): f"decisions/{path.name}"} for path in sorted((HERE.parent / "decisions").glob("*.md"))
    ]
    config["nav"] += [{"API": api}, {"Decisions": decisions}]
    return config


def on_files(files, config):
    """Pages and pictures that no file of the repository holds."""
    if not made:
        made.update(pages.made())
        made[SCHEMA] = (ROOT / "src" / "batchwright" / "cli" / SCHEMA).read_text(encoding="utf-8")
        made.update({f"{PICTURES}/{name}.svg": text for name, text in pictures.made().items()})
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """A link to a script of the gallery leads to its place on the gallery's page."""
    up = "../" * page.file.src_uri.count("/")
    markdown = markdown.replace(f"](../src/batchwright/cli/{SCHEMA})", f"]({SCHEMA})")
    return EXAMPLE.sub(lambda found: f"]({up}gallery.md#{found[1]})", markdown)


def on_page_content(html, page, config, files):
    """Formulae in TeX become MathML, which browsers draw by themselves."""
    return FORMULA.sub(
        lambda found: convert(unescape(found[3]).strip(), display="inline" if found[2] == "(" else "block"), html
    )


def on_post_build(config):
    """Nothing in the site may be fetched from elsewhere, or be left as it was written because no extension reads it; both have been."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        if found := FETCHED.search(text):
            raise PluginError(f"{path.name} must fetch nothing from elsewhere, got {found[0]}; bring it into docs/")
        if found := UNREAD.search(text):
            raise PluginError(
                f"{path.name} must hold no unread markup, got {found[0]!r}; name its extension in mkdocs.yml"
            )
