"""The pages of the site: their code runs, their links lead somewhere, and the navigation names every page."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.page_blocks import run_blocks

from batchwright.studies.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
# What docs/site makes when the site is built.
MADE = {"gallery.md", "cli.md"}
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))


def pages() -> list[Path]:
    return [path for path in sorted(DOCS.rglob("*.md")) if "site" not in path.relative_to(DOCS).parts[:1]]


@pytest.mark.parametrize(
    "page",
    ["index.md", *(f"howto/{name}.md" for name in ("my-script", "rl", "tuning", "micro-batches", "gan"))],
)
def test_the_code_of_a_page_runs(page, capsys):
    _, num_blocks = run_blocks(page)
    assert num_blocks >= 1
    assert capsys.readouterr().out.strip()


def test_the_navigation_names_every_page_and_no_other():
    named = set(re.findall(r"[\w./-]+\.md", NAVIGATION))
    decisions = {path.relative_to(DOCS).as_posix() for path in (DOCS / "decisions").glob("*.md")}
    studies = {f"studies/{name}.md" for name in REGISTRY}
    there = {path.relative_to(DOCS).as_posix() for path in pages()}
    assert studies <= there
    assert named == (there - decisions - studies) | MADE


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_link_of_a_page_leads_to_a_file(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if target.startswith("http"):
            continue
        path = (page.parent / target).resolve()
        made = path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else ""
        assert path.exists() or made in MADE or made.startswith("pictures/"), target


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda page: page.stem)
def test_a_concept_has_its_formula_its_picture_and_where_it_fails(page):
    text = page.read_text(encoding="utf-8")
    assert "\\[" in text
    assert "## Where it fails" in text
    (picture,) = re.findall(r"\.\./pictures/([\w-]+)\.svg", text)
    assert f'"{picture}":' in (DOCS / "site" / "pictures.py").read_text(encoding="utf-8")


def test_there_are_the_seven_concepts_and_the_eight_how_tos():
    assert len(CONCEPTS) == 7
    assert len(list((DOCS / "howto").glob("*.md"))) == 8


def test_a_picture_is_drawn_by_code_of_the_library():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; pip install 'batchwright[report]'")
    code = (
        "import pictures; assert all('<svg' in text for text in pictures.made().values()); print(len(pictures.made()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=DOCS / "site",
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 8


def test_the_site_fetches_nothing(tmp_path):
    """The whole site, where the extra `docs` is installed: strict, searchable, and without an address outside of itself."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; `make docs` installs it into an environment of its own")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_site(tmp_path / "site")


def check_site(site: Path) -> None:
    fetched = re.compile(r"""<(?:script|link|img|iframe|source)[^>]+(?:src|href)="(?:https?:)?//""")
    made = list(site.rglob("*.html"))
    assert len(made) > 50
    for path in made:
        assert not fetched.search(path.read_text(encoding="utf-8")), path
    assert "<math" in (site / "concepts" / "stability.html").read_text(encoding="utf-8")
    assert "noise_scale" in (site / "search" / "search_index.js").read_text(encoding="utf-8")


def test_a_name_that_waits_for_an_extra_is_in_the_file_that_its_room_says():
    """The pages of the API are made from these places, without the extra."""
    late = 0
    for room in ("tuning", "integrations"):
        for name, place in importlib.import_module(f"batchwright.{room}")._PLACES.items():
            source = ROOT.joinpath("src", *place.split(".")).with_suffix(".py").read_text(encoding="utf-8")
            assert re.search(rf"^(class|def) {name}\b", source, flags=re.MULTILINE)
            late += 1
    assert late >= 7


def test_every_number_of_the_benchmarks_has_its_command_and_its_date():
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    sections = [part for part in re.split(r"\n(?=## )", text)[1:] if re.search(r"^\|.*\d", part, re.M)]
    assert len(sections) >= 15
    for part in sections:
        title = part.splitlines()[0]
        assert re.search(r"`[^`]*(?:-m benchmarks\.|pytest|batchwright |make )[^`]*`", part), (
            f"{title} names no command"
        )
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", part), f"{title} names no date"
