"""One self-contained HTML page from the records in a folder: it opens from disk, without a network, on any screen."""

from pathlib import Path

from plotly.offline import get_plotlyjs

from batchwright.core.host import package_version
from batchwright.core.records import make_folder, write_atomically
from batchwright.report.collect import Collected, collect
from batchwright.report.elements import Html, bullets, join, section, tag
from batchwright.report.figures.style import shorten
from batchwright.report.gan_sections import gan_headline, gan_section
from batchwright.report.other_sections import environment_section, files_section, study_section
from batchwright.report.plan_records import VerificationRecord
from batchwright.report.plan_sections import answer_cards, headline, plan_parts, verification_section
from batchwright.report.rl_sections import rl_headline, rl_section
from batchwright.report.run_sections import failures, run_headline, run_section, warnings
from batchwright.report.study_overview import overview_headline, overview_section
from batchwright.report.study_sections import parse_study, record_section, study_headline
from batchwright.report.template import fill
from batchwright.report.text import natural_key, plural
from batchwright.report.tuning_sections import tuning_headline, tuning_section

REPORT_NAME = "report.html"
MAX_PLANS = 6
MAX_TASKS = 8
MAX_STUDIES = 20
MAX_SEARCHES = 8


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of everything that ``folder`` holds.

    The same records give the same page, byte for byte.

    Args:
        folder: A plan folder, a run folder, or one that holds such at any depth.
        out: The file to write, or a folder to write ``report.html`` into; ``folder`` where left out.

    Returns:
        The path of the page.

    Raises:
        RecordError: If the folder holds nothing that can be read.
        OutputError: If the page cannot be written.
    """
    collected = collect(folder)
    path = Path(out) if out is not None else folder / REPORT_NAME
    path = path / REPORT_NAME if path.is_dir() else path
    text = render(collected, path)
    make_folder(path.parent)
    # A record may hold half of a surrogate pair, which no file can.
    write_atomically(path, text.encode("utf-8", errors="replace").decode())
    return path


def render(collected: Collected, page: Path) -> str:
    """The page as text, with links as seen from the file ``page``."""
    title, body = contents(collected, page)
    return fill(title=title, body=body, plotly=plotly_script())


def plotly_script() -> str:
    """What draws the figures; it is inside of the page."""
    script: str = get_plotlyjs()
    return script.replace("\r\n", "\n")


def contents(collected: Collected, page: Path) -> tuple[str, str]:
    """Title and body of the page as HTML, with links as seen from the file ``page``."""
    title = _headline(collected)
    parts = _parts(collected, page)
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, content in parts if content]
    first = next(iter(collected.plans.values()), None)
    version = package_version("batchwright") or "of unknown version"
    body = join(
        [
            tag(
                "header",
                tag("div", tag("b", "Batchwright"), " report", class_="brand"),
                tag("h1", title),
                tag("nav", *links, aria_label="Parts of this page"),
            ),
            Html("\n"),
            tag(
                "main",
                answer_cards(first) if first else "",
                _warnings(collected),
                *(content for _, _, content in parts),
            ),
            Html("\n"),
            tag(
                "footer",
                f"Made by batchwright {version} from {shorten(collected.folder.name or '.', 80)}. ",
                _scripts_off(),
            ),
        ]
    )
    name = tag("title", f"{shorten(title, 120)} – Batchwright")
    plain = Html(name.removeprefix("<title>").removesuffix("</title>"))
    return plain, body


def _headline(collected: Collected) -> str:
    if collected.plans:
        return headline(next(iter(collected.plans.values())))
    if collected.runs:
        return run_headline(collected.runs)
    if collected.verifications:
        found = next(iter(collected.verifications.values()))
        return f"Verification of a plan for {found.task}"
    if collected.rl and not collected.studies:
        return rl_headline(collected.rl)
    if collected.gan and not collected.studies:
        return gan_headline(collected.gan)
    if collected.tuning and not collected.studies:
        return tuning_headline(collected.tuning)
    told = [study for value in collected.studies.values() if (study := parse_study(value)) is not None]
    lost = [entry for found in collected.sets.values() for entry in found.entries if entry.error]
    if len(told) + len(lost) > 1 or lost:
        return overview_headline(told, lost)
    return study_headline(told[0]) if told else plural(len(collected.studies), "study record")


def _parts(collected: Collected, page: Path) -> list[tuple[str, str, Html]]:
    """Anchor, name in the navigation, and content of each part."""
    verifications = dict(collected.verifications)
    parts: list[tuple[str, str, Html]] = []
    for number, (path, plan) in enumerate(list(collected.plans.items())[:MAX_PLANS]):
        found: VerificationRecord | None = verifications.pop(_beside(path), None)
        anchor, several = f"plan-{number + 1}", len(collected.plans) > 1
        title = f": {path}" if several else ""
        told = plan_parts(plan, found, anchor, title)
        if several:
            # The first plan heads the page; each other one brings its own answer.
            own = section(anchor, headline(plan), answer_cards(plan)) if number else tag("div", id=anchor)
            told = [(anchor, f"Plan {number + 1}", join([own, *(content for _, _, content in told)]))]
        parts += told
    for number, (path, found) in enumerate(verifications.items()):
        parts.append(
            (
                f"verification-{number + 1}",
                "Verification",
                verification_section(found, f"verification-{number + 1}", f": {path}"),
            )
        )
    tasks = sorted({run.task for run in collected.runs}, key=natural_key)
    for number, task in enumerate(tasks[:MAX_TASKS]):
        runs = [run for run in collected.runs if run.task == task]
        name = f"Runs of {shorten(task, 40)}" if len(tasks) > 1 else "Runs"
        parts.append(
            (f"runs-{number + 1}", name, run_section(runs, f"runs-{number + 1}", name, collected.folder, page))
        )
    environments = sorted({run.task for run in collected.rl}, key=natural_key)
    for number, task in enumerate(environments[:MAX_TASKS]):
        name = f"Policy gradients of {shorten(task, 40)}" if len(environments) > 1 else "Policy gradients"
        of_task = [run for run in collected.rl if run.task == task]
        parts.append((f"rl-{number + 1}", name, rl_section(of_task, f"rl-{number + 1}", name)))
    data_sets = sorted({run.task for run in collected.gan}, key=natural_key)
    for number, task in enumerate(data_sets[:MAX_TASKS]):
        name = f"GANs of {shorten(task, 40)}" if len(data_sets) > 1 else "GANs"
        of_set = [run for run in collected.gan if run.task == task]
        parts.append((f"gan-{number + 1}", name, gan_section(of_set, f"gan-{number + 1}", name)))
    for number, search in enumerate(collected.tuning[:MAX_SEARCHES]):
        name = f"Search of {shorten(search.task, 40)}" if len(collected.tuning) > 1 else "Search"
        title = f"{name}: {search.folder}" if len(collected.tuning) > 1 else f"Search of {shorten(search.task, 40)}"
        parts.append((f"search-{number + 1}", name, tuning_section(search, f"search-{number + 1}", title)))
    shown = [
        (f"study-{i + 1}", path, study) for i, (path, study) in enumerate(collected.studies.items()) if i < MAX_STUDIES
    ]
    known = [(anchor, record) for anchor, _, study in shown if (record := parse_study(study)) is not None]
    parts.append(("studies", "Studies", overview_section(known, collected.sets)))
    for number, (anchor, path, study) in enumerate(shown):
        told_study = parse_study(study)
        if told_study is None:
            parts.append((anchor, f"Study {number + 1}", study_section(study, anchor, path)))
        else:
            name = f"Study {shorten(told_study.study, 40)}"
            parts.append((anchor, name, record_section(told_study, anchor)))
    parts.append(("environment", "Environment", environment_section(collected)))
    parts.append(("records", "Records", files_section(collected, page)))
    return parts


def _beside(path: str) -> str:
    """The verification that belongs to a plan lies in its folder."""
    return (Path(path).parent / "verification.json").as_posix()


def _warnings(collected: Collected) -> Html:
    lines = [line for plan in list(collected.plans.values())[:MAX_PLANS] for line in plan.evidence.warnings]
    lines += [*collected.warnings, *failures(collected.runs), *warnings(collected.runs)]
    for number, limit, word in (
        (len(collected.plans), MAX_PLANS, "plan"),
        (len({run.task for run in collected.runs}), MAX_TASKS, "task"),
        (len({run.task for run in collected.rl}), MAX_TASKS, "environment"),
        (len({run.task for run in collected.gan}), MAX_TASKS, "data set"),
        (len(collected.studies), MAX_STUDIES, "study record"),
        (len(collected.tuning), MAX_SEARCHES, "search folder"),
    ):
        if number > limit:
            lines.append(
                f"The first {limit} of {plural(number, word)} are shown; report a smaller folder to see the others."
            )
    if not lines:
        return Html("")
    return tag("div", tag("h3", "Please note"), bullets(lines, at_most=20), class_="warnings", role="note")


def _scripts_off() -> Html:
    return tag("noscript", "The figures need JavaScript; every number is in the tables too.")
