"""The pages in a real browser: Debian's Chromium, from disk, without a network."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grao.records.answers import keep_answers, read_answers
from grao.records.run import Item, MetricsLog, Order, PromptItem, RecordedAnswer, RewardVerdict, write_evaluation
from grao.records.study import Key
from grao.reports.run import write_report
from grao.reports.study import render_study
from grao.visible import visible
from test_reports import EVALUATION, MANIFEST, step
from test_study_result import compared

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

ITEMS = 2_000
WORDS = ("the", "of", "a", "model", "answers", "with", "more", "words", "than", "it", "was", "asked", "plum", "train")
HOSTILE = {
    "script": "</script><script>window.hacked = 1</script>",
    "style": "</style><style>body{display:none}</style>",
    "handler": "<img src=x onerror='window.hacked = 1'><a href='javascript:hacked=1' onclick=hacked=1>x</a>",
    "turned": "right to left: \u202egnirts\u202c \u2066\u05e9\u05dc\u05d5\u05dd",
    "zero": "a\x00b\x1b[31mc",
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7} <!-- ]]> & &lt;",
    "long": "x" * 1_000_000,
}


def items() -> list[Item]:
    """The hostile ones, then p7, p8, ...: of three `before` loses one, ties one and wins one; `after` wins 4 of 5."""
    chance = random.Random(0)
    made = []
    for index in range(ITEMS):
        before, after = (-1.0, 0.0, 1.0)[index % 3], (1.0 if index % 5 else -1.0) * (0.5 + index / 4_000)
        texts = [" ".join(chance.choices(WORDS, k=60 + index % 7)) for _ in range(3)]
        orders = [Order("answer", 1.0, f"said of {index}"), Order("reference", -1.0, "the other way round")]
        answers = {
            "before": RecordedAnswer(texts[0], 60, False, before, []),
            "after": RecordedAnswer(
                texts[1],
                60 + index % 7,
                index % 10 == 0,
                after,
                [],
                [RewardVerdict("kind", after, orders), RewardVerdict("short", -after)],
            ),
        }
        made.append(Item(f"p{index}", f"question {index}: {texts[2]}", texts[2], answers, {"after|before": after}))
    for index, (name, text) in enumerate(HOSTILE.items()):
        answers = {model: replace(answer, text=text) for model, answer in made[index].answers.items()}
        made[index] = replace(made[index], id=f"{name} <i>", prompt=text, reference=text, answers=answers)
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    log = MetricsLog(folder)
    for index in range(1, 31):
        log.append(step(index))
    write_evaluation(folder, EVALUATION, items())
    return write_report(folder)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """Opens a page and waits for its list; at the end nothing may have been asked for, and nothing complained."""
    contexts, complaints = [], []

    def opened(path: Path, address: str = "", **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "blob:")) or complaints.append(asked.url))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(path.as_uri() + address)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("#browser[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def rows(page: Any) -> list[str]:
    """The rows that are drawn, as text."""
    return page.locator(".row").all_inner_texts()


def counted(page: Any) -> int:
    """Items that pass the filters."""
    return int(page.locator(".count").inner_text().split(" of ")[0].replace(",", ""))


def test_many_items_can_be_searched_filtered_sorted_and_linked(visit: Any, report: Path) -> None:
    assert report.stat().st_size < 10_000_000
    page, kept = visit(report), items()
    assert counted(page) == ITEMS
    assert len(rows(page)) < 40  # of all only those in sight
    page.keyboard.press("/")
    page.keyboard.type("Question 1234:")
    assert counted(page) == 1
    assert "question 1234" in page.locator(".detail").inner_text()
    assert "said of 1234" in page.locator(".detail").inner_text()
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("Escape")
    assert counted(page) == ITEMS

    lost = sum(item.answers["before"].reward > 0 > item.answers["after"].reward for item in kept)
    page.click("[data-move='win loss']")
    assert counted(page) == lost
    assert {row.split("\n")[0].replace("\u2009", "").strip()[:2] for row in rows(page)} == {"WL"}
    page.select_option("[name=cut]", "yes")
    both = [item for item in kept if item.answers["before"].reward > 0 > item.answers["after"].reward]
    assert counted(page) == sum(item.answers["after"].truncated for item in both)
    page.click("text=clear filters")

    page.select_option("[name=sort]", "low")
    least = min(kept, key=lambda item: item.answers["after"].reward)
    assert least.prompt[:20] in rows(page)[0]
    page.select_option("[name=sort]", "long")
    assert "· 66" in rows(page)[0]
    page.select_option("[name=reward]", "1")  # `short` says the opposite
    page.select_option("[name=sort]", "high")
    assert least.prompt[:20] in rows(page)[0]

    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    ranked = sorted(kept, key=lambda item: item.answers["after"].reward)
    assert page.locator(".row[aria-selected=true]").inner_text().count(ranked[1].prompt[:20]) == 1
    assert page.evaluate("location.hash") == f"#item={ranked[1].id}"
    page.keyboard.press("d")
    assert page.locator(".detail ins").count() > 0
    marked = page.locator(".detail .answer").nth(1)
    assert marked.locator(".text").first.evaluate(
        "node => [...node.childNodes].filter((one) => one.nodeName !== 'DEL').map((one) => one.textContent).join('')"
    ) == (ranked[1].answers["after"].text)
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()

    linked = visit(report, "#item=p1500")
    assert "question 1500" in linked.locator(".detail").inner_text()
    assert linked.locator(".row[aria-selected=true]").is_visible()


def test_hostile_answers_are_text(visit: Any, report: Path) -> None:
    page = visit(report)
    for name, text in HOSTILE.items():
        page.evaluate("name => { location.hash = '#item=' + encodeURIComponent(name); }", f"{name} <i>")
        page.wait_for_function(
            "name => document.querySelector('.detail .name').textContent === name", arg=f"Prompt {name} <i>"
        )
        shown = page.locator(".detail .text").all_text_contents()
        assert len(shown) == 6  # prompt, before, after with two orders, reference
        if name == "long":
            assert all(
                "[... 980,000 characters omitted ...]" in text for text in (shown[0], shown[1], shown[2], shown[5])
            )
        else:
            assert [shown[0], shown[1], shown[2], shown[5]] == [visible(text)] * 4
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.locator("img, a[href^=javascript]").count() == 0


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_edge(visit: Any, report: Path, width: int, scheme: str) -> None:
    page = visit(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    inks = page.evaluate(
        "[document.body, ...document.querySelectorAll('h1, .plot text')].map((one) => { const style = "
        "getComputedStyle(one); return one === document.body ? style.backgroundColor : one.matches('text') "
        "? style.fill : style.color; })"
    )
    assert len(set(inks)) == 3  # paper, ink, and the muted ink of all charts
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#browser").is_visible()


def test_rows_leave_out_what_all_prompts_begin_with(visit: Any, tmp_path: Path) -> None:
    template = "system: You are a helpful assistant. user: "
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    kept = [replace(item, prompt=template + item.prompt) for item in items()[10:20]]
    write_evaluation(tmp_path, EVALUATION, kept)
    page = visit(write_report(tmp_path))
    shown = rows(page)
    assert len(shown) > 3
    assert all(row.split("\n")[1].startswith(f"{index}: ") for index, row in enumerate(shown, 10))  # "question" too
    assert template in page.locator(".detail").inner_text()  # the prompt itself is whole


def test_charts_can_be_read_and_taken_away(visit: Any, report: Path) -> None:
    page = visit(report, accept_downloads=True)
    assert page.locator("figure svg").count() == page.locator("figure").count() == 11
    figure = page.locator("figure", has_text="Wins, ties and losses")
    figure.locator(".plot").hover()
    tip = figure.locator(".tip").inner_text()
    assert tip.startswith("step 1")
    assert all(name in tip for name in ("wins", "ties", "losses"))
    assert page.locator(".cursor").count() == 11  # all charts point at the same step

    def taken(button: str, within: Any) -> bytes:
        with page.expect_download() as download:
            within.get_by_role("button", name=button).click()
        return Path(download.value.path()).read_bytes()

    svg = taken("SVG", figure).decode()
    assert svg.startswith("<svg")
    assert "Wins, ties and losses" in svg
    assert "var(" not in svg
    assert taken("PNG", figure).startswith(b"\x89PNG")
    assert taken("CSV", figure).decode().splitlines()[:2] == [
        "series,optimiser step,value,single,low,high",
        "wins,1,0.23,0.22,,",
    ]
    headline = page.locator(".table").first
    assert taken("CSV", headline).decode().splitlines()[1] == '"RAS, strict wins",before,9.0 %,6.0 to 12.7 %,300'
    assert taken("LaTeX", headline).decode().startswith("\\begin{tabular}")


def test_without_javascript_the_words_and_tables_stand(visit: Any, report: Path) -> None:
    page = visit(report, java_script_enabled=False)
    text = page.locator("body").inner_text()
    assert "After 30 steps, the answers beat the reference in 41.3" in text
    assert "Largest gain" in text
    assert "The charts need JavaScript, which is turned off." in text
    assert "All answers are in items.jsonl." in text
    assert "+38.0" in text
    assert not page.locator(".script").first.is_visible()


def test_the_answers_of_a_study_stand_arm_beside_arm(visit: Any, tmp_path: Path) -> None:
    result = compared(2, {"sft": 30, "grpo": 90})
    prompts = [PromptItem(f"p{index}", f"ask {index}", "known") for index in range(5)]
    before = [RecordedAnswer(f"start {index}", 2, False, -1.0, [7]) for index in range(5)]
    for arm in result.arms:
        after = [replace(answer, text=f"{arm.arm} says {index}", reward=1.0) for index, answer in enumerate(before)]
        keep_answers(tmp_path, Key(arm.arm, "final", arm.learning_rate, 0), prompts, after, before, [1.0] * 5)
    answers = read_answers(tmp_path, result)
    assert answers[3].answers["sft"] == RecordedAnswer("sft says 3", 2, False, 1.0, [])
    assert answers[3].comparisons["sft|before"] == 1.0
    (tmp_path / "study.html").write_text(render_study("mine", result, "", answers))
    page = visit(tmp_path / "study.html", "#item=p3")
    assert page.locator(".detail header b").all_inner_texts() == ["before", "grpo", "reference"]
    page.select_option("[name=from]", label="grao")
    page.get_by_role("button", name="all 4 models").click()
    assert page.locator(".detail header b").all_inner_texts() == ["grao", "grpo", "before", "sft", "reference"]
    assert "grao says 3" in page.locator(".detail").inner_text()
