import json
import random
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from batchwright.core.errors import OutputError, RecordError
from batchwright.core.records import write_json
from batchwright.core.serialization import to_plain
from batchwright.report import write_report

Maker = Callable[..., dict[str, Any]]
Writer = Callable[..., Path]

HOSTILE = (
    '</script><script>hacked()</script><img src=x onerror="hacked()"><a href="https://evil.example">"\'%{x}&amp;</a>'
)


class Reader(HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def own(page: Path) -> str:
    """The page without plotly.js, which is not ours."""
    text = page.read_text()
    library = get_plotlyjs()
    assert text.count(library) == 1
    return text.replace(library, "")


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(own(page))
    return reader


def test_page_answers_with_the_numbers_of_the_records(realistic: Path):
    text = read(write_report(realistic)).text
    assert (
        "Train digits-cnn with batch size 128 (64–256), lr 0.21 (0.16–0.26), momentum 0.9; micro-batch 64 × 2" in text
    )
    for expected in (
        "95 % interval 131–240",  # noise scale
        "95 % interval 104–650",  # critical batch size
        "the geometric mean of what the noise allows",
        "κ = 1.5 (0.6–3.8) times the noise scale (prior fitted on the built-in tasks)",
        "413 plain steps: 26,411 examples and 7.31 s",
        "load 1.9 on 2 processors",
        "Regret in time1.06 ×",
        "95 % interval 1.00–1.14; best found: batch size 128, lr 0.421",
        "Two seeds a setting",
        "3 of 4 (1 not reached)",
        "0 of 1 (1 unfinished)",
        "2.9.0",
        "Study: train-longer",
        "92.1 (91.7–92.5)",
    ):
        assert expected in text


def test_page_fetches_nothing(realistic: Path):
    page = write_report(realistic)
    for tag, attributes in read(page).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        assert not re.match(r"\s*([a-z]+:|//)", attributes.get("href") or "")
    assert not re.search(r"@import|url\(", own(page))
    assert "default-src 'none'" in own(page)


def test_links_lead_to_the_records(realistic: Path, tmp_path: Path):
    page = write_report(realistic, tmp_path / "elsewhere" / "page.html")
    links = [attributes["href"] for tag, attributes in read(page).elements if tag == "a"]
    files = [link for link in links if link and not link.startswith("#")]
    assert "../out/plan.json" in files
    for link in files:
        assert (page.parent / link).exists()


def test_anchors_of_the_navigation_are_there_and_ids_differ(realistic: Path, plan_maker: Maker):
    write_json(realistic / "other" / "plan.json", plan_maker("other")) if (
        realistic / "other"
    ).mkdir() is None else None
    elements = read(write_report(realistic)).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [a["href"] for tag, a in elements if tag == "a" and (a["href"] or "").startswith("#")]
    assert anchors
    assert {anchor[1:] for anchor in anchors if anchor} <= set(ids)


def test_every_figure_has_a_title_and_a_caption(realistic: Path):
    page = read(write_report(realistic))
    assert (
        sum(tag == "figure" for tag, _ in page.elements) == sum(tag == "figcaption" for tag, _ in page.elements) == 10
    )


def hostile_folder(folder: Path, plan_maker: Maker, verification_maker: Maker, run_writer: Writer) -> Path:
    """Every text of every record is hostile."""

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key if key in KEYS else key + HOSTILE: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    plan = plan_maker()
    KEYS = {*keys_of(plan), *keys_of(verification_maker())}
    plan["reasons"][HOSTILE] = "reason"
    plan["cost"]["parts"][HOSTILE] = 3.0
    plan["environment"] = {**plan["environment"], HOSTILE: HOSTILE}
    write_json(folder / "plan.json", poison(plan))
    write_json(folder / "verification.json", poison(verification_maker()))
    write_json(folder / "study.json", {"study": HOSTILE, HOSTILE: [{HOSTILE: HOSTILE}], "list": [HOSTILE]})
    for number in range(3):
        path = run_writer(
            folder / f"javascript:alert({number})",
            label=HOSTILE + str(number),
            task=HOSTILE,
            adaptive=True,
            reason="failed" if number else "target",
            message=HOSTILE,
        )
        text = (path / "records.jsonl").read_text()
        hostile = json.dumps(HOSTILE)[1:-1]
        text = text.replace('"accuracy"', f'"{hostile}"').replace("noise scale 120", hostile)
        (path / "records.jsonl").write_text(text)
    return folder


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys_of(item)}
    return {key for item in value for key in keys_of(item)} if isinstance(value, list) else set()


def test_text_of_records_is_inert(tmp_path: Path, plan_maker: Maker, verification_maker: Maker, run_writer: Writer):
    page = write_report(hostile_folder(tmp_path, plan_maker, verification_maker, run_writer))
    reader = read(page)
    scripts = [attributes for tag, attributes in reader.elements if tag == "script"]
    assert sum("data-plot" not in attributes for attributes in scripts) == 2
    for tag, attributes in reader.elements:
        assert tag != "img"
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("href") or "").startswith(("http", "javascript:"))
    assert "hacked()" in reader.text
    # Plotly reads links and breaks in its texts, so these are escaped in its data too.
    for source in re.findall(r'<script type="application/json" data-plot="[^"]*">(.*?)</script>', own(page)):
        plot = json.dumps(json.loads(source), ensure_ascii=False)
        assert "<a" not in plot
        assert "<img" not in plot


def test_hostile_page_runs_nothing_in_a_browser(
    tmp_path: Path, plan_maker: Maker, verification_maker: Maker, run_writer: Writer, browser: Callable[..., str]
):
    dom = browser(write_report(hostile_folder(tmp_path, plan_maker, verification_maker, run_writer)))
    assert "main-svg" in dom
    assert "<img" not in dom.replace(get_plotlyjs(), "")
    assert not re.search(r'<[^>]*href="https://evil', dom)
    assert "CONSOLE" not in dom


def test_browser_draws_every_figure_without_an_error(realistic: Path, browser: Callable[..., str]):
    page = write_report(realistic)
    dom = browser(page)
    drawn = re.findall(r'<div class="plot js-plotly-plot"', dom)
    assert len(drawn) == 10
    assert 'class="main-svg"' in dom
    assert "could not be drawn" not in dom.split("<script>")[0]
    assert "CONSOLE" not in dom


def test_damaged_run_is_told_and_the_rest_is_shown(realistic: Path):
    (realistic / "runs" / "killed" / "records.jsonl").write_text("{}\n")
    with (realistic / "runs" / "batch-32-0" / "records.jsonl").open("a") as file:
        file.write('{"kind"')
    text = read(write_report(realistic)).text
    assert "runs/killed/records.jsonl is left out, it cannot be read" in text
    assert "runs/batch-32-0: a line that a kill left unfinished was passed over" in text
    assert "batch-512" in text


def test_page_tells_how_far_the_lr_is_from_its_bound_and_what_the_gauge_warned_of(realistic: Path):
    text = own(write_report(realistic))
    assert "The learning rate is 51.3 % of the largest one" in text
    assert "Largest stable learning rate" in text
    assert "likely to make the loss spike" in text
    assert "Distance to the edge of stability" in text


def test_page_tells_what_the_statistics_of_small_micro_batches_cost(realistic: Path):
    text = read(write_report(realistic)).text
    assert (
        "Batch normalization with the statistics of small micro-batches, against those of 256 examples (20 layers"
        in text
    )
    # 0.87 of a scale of 2.
    assert re.search(r"43\.5 %\s*40 % to 47 %", text)


def test_plan_alone_makes_a_page(tmp_path: Path, plan_maker: Maker):
    write_json(tmp_path / "plan.json", plan_maker())
    page = read(write_report(tmp_path))
    assert "Train digits-cnn with batch size 128" in page.text
    assert "Every run" not in page.text


def test_an_lr_that_nothing_estimated_has_no_interval(tmp_path: Path, plan_maker: Maker):
    plan = plan_maker()
    write_json(tmp_path / "plan.json", plan)
    assert "lr 0.21 (0.16–0.26), momentum" in read(write_report(tmp_path)).text
    plan["lr"] = plan["base_lr"] = 0.2
    plan["intervals"]["lr"] = {"value": 0.2, "low": 0.2, "high": 0.2, "level": 0.95}
    write_json(tmp_path / "plan.json", plan)
    text = read(write_report(tmp_path)).text
    assert "lr 0.2, momentum" in text
    assert "0.2–0.2" not in text


def test_bare_plan_makes_a_page_without_figures(tmp_path: Path):
    write_json(tmp_path / "plan.json", {"task": "t", "batch_size": 100, "micro_batch_size": 100, "lr": 0.1})
    page = read(write_report(tmp_path))
    assert "Train t with batch size 100, lr 0.1; micro-batch 100 × 1" in page.text
    assert not [tag for tag, _ in page.elements if tag == "figure"]


def test_plan_without_evidence_of_noise_says_so(tmp_path: Path, plan_maker: Maker):
    plan = plan_maker()
    nothing = {"value": float("inf"), "low": 0.0, "high": float("inf"), "level": 0.95}
    plan["intervals"].update(noise_scale=nothing, critical_batch_size=nothing)
    plan["evidence"]["noise"] = [{"step": 10, "noise_scale": nothing}]
    plan["evidence"]["curve"] = []
    write_json(tmp_path / "plan.json", plan)
    text = read(write_report(tmp_path)).text
    assert "Noise scaleunknown" in text
    assert "At 1 of 1 point of the pilot the gradient was not resolved" in text


def test_one_run_makes_a_page(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path)
    text = read(write_report(tmp_path)).text
    assert "digits-cnn: one run of plan (seed 0) reached its target after 31,000 examples" in text


def test_runs_alone_name_the_cheapest_label_only_where_its_interval_says_so(tmp_path: Path, run_writer: Writer):
    for seed in range(3):
        run_writer(tmp_path / f"a{seed}", label="small", seed=seed, to_target=20000.0 + 100 * seed)
        run_writer(tmp_path / f"b{seed}", label="large", seed=seed, to_target=40000.0 + 100 * seed)
    assert "fewest examples to target: small, 20,100" in read(write_report(tmp_path)).text
    for seed in range(3):
        run_writer(tmp_path / f"c{seed}", label="other", seed=seed, to_target=20050.0 + 100 * seed)
    assert "none of them clearly needs the fewest examples" in read(write_report(tmp_path)).text


def test_a_label_whose_batch_grew_says_from_what_to_what(tmp_path: Path, run_writer: Writer):
    for seed in range(2):
        run_writer(tmp_path / f"a{seed}", label="fixed", seed=seed, batch_size=32)
        run_writer(tmp_path / f"b{seed}", label="growing", seed=seed, batch_size=32, adaptive=True)
    labels = read(write_report(tmp_path)).text.partition("Every run")[0]
    assert labels.count("32 → 256") == 1


def test_run_that_has_just_begun_makes_a_page(tmp_path: Path, run_writer: Writer):
    path = run_writer(tmp_path, reason="") / "records.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    text = read(write_report(tmp_path)).text
    assert "one run of plan (seed 0) saw 0 examples" in text


@pytest.mark.parametrize("name", ["verification.json", "study.json"])
def test_single_file_makes_a_page(tmp_path: Path, verification_maker: Maker, name: str):
    write_json(tmp_path / name, verification_maker())
    assert "digits-cnn" in read(write_report(tmp_path)).text


def test_runs_of_several_tasks_are_told_apart(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "a", task="first")
    run_writer(tmp_path / "b", task="second")
    text = read(write_report(tmp_path)).text
    assert "2 runs of 2 tasks" in text
    assert "Runs of first" in text
    assert "Runs of second" in text


def test_failed_run_tells_why(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "a", to_target=None, reason="failed", message="loss must stay finite, got nan at step 7")
    text = read(write_report(tmp_path)).text
    assert "a failed after" in text
    assert "got nan at step 7" in text


def test_same_records_give_the_same_page(realistic: Path):
    first = write_report(realistic).read_bytes()
    assert write_report(realistic).read_bytes() == first


def test_half_of_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path, run_writer: Writer):
    folder = run_writer(tmp_path, label="MARK")
    path = folder / "records.jsonl"
    path.write_text(path.read_text().replace("MARK", "\\ud800"))
    assert write_report(tmp_path).exists()


def test_out_may_be_a_folder_or_a_file(realistic: Path, tmp_path: Path):
    assert write_report(realistic) == realistic / "report.html"
    assert write_report(realistic, tmp_path) == tmp_path / "report.html"
    assert write_report(realistic, tmp_path / "new" / "x.html") == tmp_path / "new" / "x.html"


def test_out_that_cannot_be_written_is_one_clear_line(realistic: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out must be a folder that can be written"):
        write_report(realistic, tmp_path / "file" / "page.html")


def test_empty_folder_is_an_error(tmp_path: Path):
    with pytest.raises(RecordError, match="must hold one of"):
        write_report(tmp_path)


def test_impossible_numbers_do_not_stop_the_page(
    tmp_path: Path, plan_maker: Maker, verification_maker: Maker, run_writer: Writer
):
    rng = random.Random(0)
    numbers = ["0", "-1", "1e308", "-1e308", "1e-320", '"nan"', '"inf"', '"-inf"', "1" + "0" * 400, "null", "true"]
    run = run_writer(tmp_path / "model", adaptive=True, num_records=24)
    whole = {
        "plan.json": json.dumps(to_plain(plan_maker())),
        "verification.json": json.dumps(to_plain(verification_maker())),
        "records.jsonl": (run / "records.jsonl").read_text(),
    }
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        for name, text in whole.items():
            share = rng.choice([0.002, 0.02, 0.3])

            def spoil(found: re.Match[str], share: float = share) -> str:
                return f": {rng.choice(numbers)}" if rng.random() < share else found[0]

            (folder / name).write_text(re.sub(r": -?[0-9][-+.e0-9]*", spoil, text))
        run_writer(folder / "run", num_records=6)
        assert write_report(folder).stat().st_size > 0


def test_thousand_runs_stay_usable(tmp_path: Path, run_writer: Writer):
    for label in range(25):
        first = run_writer(tmp_path / f"{label}-0", label=f"batch-{label}", num_records=60, adaptive=label % 2 == 0)
        text = (first / "records.jsonl").read_text()
        for seed in range(1, 40):
            (tmp_path / f"{label}-{seed}").mkdir()
            (tmp_path / f"{label}-{seed}" / "records.jsonl").write_text(text.replace('"seed": 0', f'"seed": {seed}', 1))
    began = time.process_time()
    page = write_report(tmp_path)
    assert time.process_time() - began < 20
    text = own(page)
    assert len(text) < 4e6
    shown = read(page).text
    assert "14 of 25 labels are drawn" in shown
    assert "Thin lines are drawn for 40 of 560 runs; means and bands are over all of them." in shown
    assert "40 of 40" in shown
