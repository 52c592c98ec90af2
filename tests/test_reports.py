"""The report page, its tables and its words: what a reader sees must be what the records say."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from grao.config.schema import ADAPTER
from grao.errors import InputError
from grao.records.run import (
    Doubt,
    Estimate,
    Evaluation,
    Gain,
    Item,
    Manifest,
    MetricsLog,
    Order,
    RecordedAnswer,
    RewardVerdict,
    Scores,
    read_manifest,
    update_manifest,
    write_evaluation,
)
from grao.reports import figures
from grao.reports.advice import next_steps, study_steps
from grao.reports.evaluation import headline_table
from grao.reports.figures import HUES, Style, arm_styles
from grao.reports.items import pack, read_first, transitions
from grao.reports.parts import LONGEST, shorten
from grao.reports.reproduce import as_yaml, differences, files, portable, portable_text
from grao.reports.run import certainty, run_verdict, write_report
from grao.reports.tables import (
    Block,
    Row,
    Table,
    duration,
    interval,
    number,
    percent,
    plain_table,
    round_scale,
    share,
    typeset,
)
from grao.studies.study import recorded_result

BEFORE = Scores(
    ras=Estimate(0.09, 0.06, 0.1267, 300),
    ras_win_or_tie=Estimate(0.2233, 0.18, 0.2733, 300),
    ras_half_tie=Estimate(0.1567, 0.12, 0.1967, 300),
    missing=0,
    mean_reward=-0.6867,
    mean_tokens=162.3,
    truncated=0.0133,
)
AFTER = Scores(
    ras=Estimate(0.4133, 0.3567, 0.47, 300),
    ras_win_or_tie=Estimate(0.55, 0.4933, 0.6067, 300),
    ras_half_tie=Estimate(0.4817, 0.43, 0.5333, 300),
    missing=0,
    mean_reward=-0.0367,
    mean_tokens=251.8,
    truncated=0.0667,
)
GAIN = Gain(
    "after",
    "before",
    nag=Estimate(0.38, 0.3033, 0.4567, 300),
    nag_win=Estimate(0.56, 0.5033, 0.6167, 300),
    relative_ras=Estimate(3.5926, 2.1, 6.25, 300),
)
EVALUATION = Evaluation(0.95, 300, {"before": BEFORE, "after": AFTER}, [GAIN])
MANIFEST = {
    "config": {
        "model": {"path": "tiny/model", "lora": {"rank": 16}},
        "rewards": [{"function": "a.py:f", "weight": 1.0}, {"function": "b.py:g", "weight": 0.5}],
        "output": "runs/demo",
        "rollout": {"group_size": 8},
        "training": {"steps": 30},
    },
    "seed": 7,
    "versions": {"grao": "0.1.0"},
    "git": {"commit": "3f1c9a7"},
    "data": {"prompts": 7700, "held_out": 300, "fingerprint": "9f3b"},
    "started": "2026-02-03T10:00:00+00:00",
    "finished": "2026-02-03T11:01:00+00:00",
    "status": "finished",
}


def step(index: int, **more: float) -> dict[str, float]:
    wave = 0.02 * (index % 5)
    return {
        "step": index,
        "seconds": 2.5 * index,
        "grad_norm": 1 + wave,
        "reward/mean": -0.6 + 0.02 * index + wave,
        "verdict/win": 0.2 + wave,
        "verdict/tie": 0.3,
        "verdict/loss": 0.5 - wave,
        "reward/missing": 0.0,
        "groups/no_signal": wave,
        "groups/dropped": 0.0,
        "terms_share/exploration": 0.3 + wave,
        "terms_share/imitation": 0.5 - wave,
        "terms_share/regulariser": 0.2,
        "reference_weight/mean": 0.5 - 0.03 * index,
        "reference_weight/negative": wave,
        "completion/tokens": 100 + index,
        "completion/truncated": wave,
        "entropy": 1.5 - wave,
        "seconds/rollout": 1.0,
        "seconds/reward": 0.5,
        "seconds/update": 1.0,
        "tokens/sampled": 1_000_000.0,
        **more,
    }


def item(index: int, reward: float | None, text: str = "an answer", prompt: str = "a question") -> Item:
    answers = {
        "before": RecordedAnswer("old", 3, False, -1.0, [1, 2, 3]),
        "after": RecordedAnswer(text, 5, True, reward, [1, 2, 3, 4, 5]),
    }
    return Item(f"p{index}", prompt, "the reference", answers, {"after|before": 1.0})


def run_folder(
    folder: Path,
    manifest: dict[str, object] | None = MANIFEST,
    metrics: list[dict[str, float]] | None = None,
    evaluation: Evaluation | None = EVALUATION,
    items: list[Item] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    log = MetricsLog(folder)
    for values in [{"step": 1, "entropy": 1.5}, {"step": 2, "entropy": 1.25}] if metrics is None else metrics:
        log.append(values)
    if evaluation is not None:
        write_evaluation(folder, evaluation, [item(0, 1.0)] if items is None else items)
    return folder


class Page(HTMLParser):
    """Tags with their attributes, all text outside of styles, the shown prompts and answers, the table cells."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.answers: list[str] = []
        self.answer_depth = 0
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "div" and dict(attrs).get("class") == "text":
            self.answers.append("")
            self.answer_depth = len(self.open)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if len(self.open) < self.answer_depth:
            self.answer_depth = 0

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.text += data
        if self.answer_depth:
            self.answers[-1] += data
        if "tr" in self.open:
            self.rows[-1][-1] += data


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metrics = [step(index) for index in range(1, 31)]
    return write_report(run_folder(tmp_path_factory.mktemp("runs") / "demo", metrics=metrics))


def test_headline_shows_exactly_the_numbers_of_the_evaluation_file(full_report: Path) -> None:
    recorded = json.loads((full_report.parent / "evaluation.json").read_text())

    def row(name: str, estimate: dict[str, float], sign: str = "") -> list[str]:
        value, low, high = (f"{100 * estimate[key]:{sign}.1f}" for key in ("value", "low", "high"))
        return [name, f"{value}\N{NO-BREAK SPACE}%", f"{low} to {high}\N{NO-BREAK SPACE}%", "", str(estimate["n"])]

    before, after, gain = recorded["models"]["before"], recorded["models"]["after"], recorded["gains"][0]
    expected = [
        row(name, scores[measure])
        for measure in ("ras", "ras_win_or_tie", "ras_half_tie")
        for name, scores in (("before", before), ("after", after))
    ]
    expected += [row("after vs before", gain["nag"], "+"), row("after vs before", gain["nag_win"])]
    expected.append(row("after vs before", gain["relative_ras"], "+"))
    rows = Page(full_report.read_text(encoding="utf-8")).rows
    assert [cells for cells in rows if len(cells) == 5 and cells[3] == ""] == expected


def test_verdict_sentence_is_the_heading(full_report: Path) -> None:
    text = Page(full_report.read_text(encoding="utf-8")).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "After 30 steps, the answers beat the reference in 41.3 % of 300 prompts (35.7 to 47.0 %); "
        "before training: 9.0 % (6.0 to 12.7 %)." in text
    )
    assert "confidence interval of the relative gain, +210.0 to +625.0 %, excludes zero." in text


def test_page_stands_alone_and_lets_nothing_else_run(full_report: Path) -> None:
    html = full_report.read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base", "form")
        assert not {"src", "srcset", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert re.findall("https?://[^\"']*", html) == ["http://www.w3.org/2000/svg"]  # a name, which is not asked for
    assert "@import" not in html
    assert "url(" not in html
    assert len(html.encode()) < 200_000
    script, style = (re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style"))
    assert len(script) == len(style) == 1
    assert len(script[0].encode()) < 100_000
    (policy,) = (attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script[0], style[0])]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}'; img-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def drawings(html: str) -> dict[str, dict[str, object]]:
    """Title of each chart -> what is drawn."""
    found = re.findall(r"<figure>.*?<h3>(.*?)</h3>.*?<script type=\"application/json\">(.*?)</script>", html, re.DOTALL)
    return {title: json.loads(text) for title, text in found}


def test_every_chart_is_drawn_with_units_and_spoken_words(full_report: Path) -> None:
    html = full_report.read_text(encoding="utf-8")
    page, drawn = Page(html), drawings(html)
    labels = [attributes["aria-label"] or "" for _, attributes in page.tags if attributes.get("class") == "plot"]
    assert len(labels) == len(drawn) == 11
    assert "Wins, ties and losses: wins 23 % to 24 %; ties 30 % to 30 %; losses 47 % to 46 %" in [
        label.replace("\N{NO-BREAK SPACE}", " ") for label in labels
    ]
    axes = {str(drawing["y"]["label"]) for drawing in drawn.values()}  # type: ignore[index]
    assert axes >= {"nats per token", "share of samples (%)", "L2 norm", "seconds"}
    (entropy,) = drawn["Entropy"]["series"]  # type: ignore[misc]
    logged = [step(index)["entropy"] for index in range(1, 31)]
    assert entropy["x"] == list(range(1, 31))
    assert entropy["raw"] == pytest.approx(logged)
    assert entropy["y"] == pytest.approx(figures.moving_average(np.array(logged), 3).tolist(), rel=1e-5)


def test_judges_and_constraints_have_curves_by_their_names(tmp_path: Path) -> None:
    more = {"judge_helpful/flip": 0.25, "judge_kind/flip": 0.5, "reward_kind/violated": 0.125, "reward_kind/mean": 1.0}
    page = page_of(run_folder(tmp_path / "r", metrics=[step(1, **more)]))
    labels = [
        (attributes["aria-label"] or "").replace("\N{NO-BREAK SPACE}", " ")
        for _, attributes in page.tags
        if attributes.get("class") == "plot"
    ]
    assert "Order-dependent verdicts: helpful 25 %; kind 50 %" in labels
    assert "Reward hacking" in page.text
    assert "Constraint violations: kind 12 %" in labels
    assert not any("Reward components" in label for label in labels)  # one reward has no parts


def test_same_records_give_the_same_page(tmp_path: Path) -> None:
    metrics = [step(index) for index in (1, 2, 3)]
    one, two = (write_report(run_folder(tmp_path / place / "demo", metrics=metrics)) for place in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    assert write_report(one.parent).read_bytes() == two.read_bytes()


HOSTILE = [
    "<script>alert('x')</script><img src=x onerror=alert(1)>",
    "\"quotes\" & 'more' {{ 7 * 7 }} {% raw %} </div></main> <!-- ]]>",
    "right to left: \u05e9\u05dc\u05d5\u05dd \u202eoverride",
    "w" * LONGEST,
    "emoji \U0001f600, tab\there, two\n\nparagraphs",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    name = "x\"><svg onload='alert(1)'>"
    manifest = {**MANIFEST, "status": text, "versions": {name: text}}
    metrics = [{"step": 1, f"reward_{name}/mean": 1.0, "reward_b/mean": 2.0}]
    page = page_of(run_folder(tmp_path / "r", manifest, metrics, items=[item(0, 1.0, text, prompt=text)]))
    shown = text.replace("\u202e", "[U+202E]")
    assert page.answers == [shown, "old", shown, "the reference"] * 2  # as the gain and as the median
    assert name in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    assert [attributes for tag, attributes in page.tags if tag == "script" and "type" not in attributes] == [{}]
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)


def test_control_characters_become_visible(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "r", items=[item(0, 1.0, "a\x00b\x1b[31m\x7f\r\nc\x85d\uffff")])
    assert page_of(folder).answers[2] == "a\u2400b\u241b[31m\u2421\nc\ufffdd\ufffd"


def test_long_text_loses_its_middle_and_says_so(tmp_path: Path) -> None:
    text = "".join(f"{index:05d}" for index in range(2000))
    excerpt = shorten(text)
    assert len(excerpt.head) + excerpt.omitted + len(excerpt.tail) == 10_000
    assert text.startswith(excerpt.head)
    assert text.endswith(excerpt.tail)
    page = page_of(run_folder(tmp_path / "r", items=[item(0, 1.0, text)]))
    assert f"{10_000 - LONGEST:,} characters omitted; the full text is in items.jsonl" in page.text
    assert excerpt.head in page.text
    assert excerpt.tail in page.text


def answered(index: int, **rewards: float | None) -> Item:
    answers = {name: RecordedAnswer(f"{name} {index}", 3, False, reward, []) for name, reward in rewards.items()}
    return Item(f"p{index}", "a question", "the reference", answers)


def test_a_gain_a_regression_and_the_median_are_chosen_by_rule() -> None:
    rewards = [(0.0, -0.5), (-1.0, 1.0), (None, 1.0), (-1.0, 1.0), (1.0, 0.25), (1.0, -1.0), (0.5, None)]
    items = [answered(index, before=before, after=after) for index, (before, after) in enumerate(rewards)]
    chosen = read_first(items, "before", "after")
    assert [(title, example.id) for title, _, example in chosen] == [
        ("Largest gain", "p1"),
        ("Largest regression", "p5"),
        ("Median answer", "p2"),  # of -1, -0.5, 0.25, 1, 1, 1; p1 has the median too, but is shown already
    ]
    assert [column.heading for column in chosen[0][2].columns] == ["before", "after", "reference"]
    assert "from before to after: -1 to +1" in chosen[0][1]
    better = [answered(index, before=0.0, after=1.0) for index in range(3)]
    assert [title for title, _, _ in read_first(better, "before", "after")] == ["Largest gain", "Median answer"]
    alone = [answered(index, model=reward) for index, reward in enumerate((0.0, 1.0, -1.0))]
    assert [(title, example.id) for title, _, example in read_first(alone, "", "model")] == [
        ("Best answer", "p1"),
        ("Worst answer", "p2"),
        ("Median answer", "p0"),
    ]
    assert read_first([answered(0, after=None)], "before", "after") == []


def test_transitions_count_every_item() -> None:
    pairs = [(-1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (0.0, 0.0), (None, 1.0)]
    items = [answered(index, before=before, after=after) for index, (before, after) in enumerate(pairs)]
    table = transitions(items, "before", "after")
    assert list(table.columns) == ["before (rows), after (columns)", "wins", "ties", "loses", "no verdict"]
    assert [list(row.cells) for row in table.rows] == [
        ["wins", "0", "0", "1", "0"],
        ["ties", "0", "1", "0", "0"],
        ["loses", "2", "0", "0", "0"],
        ["no verdict", "1", "0", "0", "0"],
    ]


def test_packed_items_hold_every_word_that_was_said(tmp_path: Path) -> None:
    said = [
        RewardVerdict("kind", 0.5, [Order("answer", 1.0, "the first"), Order("reference", None, "eh?")]),
        RewardVerdict("short", -1.0),
    ]
    answer = RecordedAnswer("text", 4, True, 0.5, [1], said)
    packed = pack([Item("p", "q", "r", {"model": answer}, {})], "", "model", "items.jsonl")
    assert packed is not None
    assert json.loads(gzip.decompress(base64.b64decode(packed.data))) == {
        "models": ["model"],
        "rewards": ["kind", "short"],
        "items": [
            {
                "i": "p",
                "p": "q",
                "r": "r",
                "a": [
                    {
                        "t": "text",
                        "n": 4,
                        "c": 1,
                        "v": 0.5,
                        "s": [[0, 0.5, [["answer", 1.0, "the first"], ["reference", None, "eh?"]]], [1, -1.0, []]],
                    }
                ],
            }
        ],
    }
    assert packed.longest is None
    page = page_of(run_folder(tmp_path / "r", items=[Item("p", "q", "r", {"after": answer}, {})]))
    assert page.answers[:4] == ["q", "text", "the first", "eh?"]


def test_a_page_grows_no_larger_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grao.reports.items.LARGEST", 60_000)
    noise = np.random.default_rng(0).integers(33, 127, (40, 5000)).astype(np.uint8)
    items = [item(index, 1.0, bytes(row).decode()) for index, row in enumerate(noise)]
    packed = pack(items, "before", "after", "items.jsonl")
    assert packed is not None
    assert len(packed.data) <= 60_000
    assert packed.longest == 20_000 // 2**4
    shown = json.loads(gzip.decompress(base64.b64decode(packed.data)))["items"][3]["a"][1]["t"]
    assert f"[... {5000 - 1250:,} characters omitted ...]" in shown


def test_badges_name_the_recorded_verdicts(tmp_path: Path) -> None:
    html = write_report(run_folder(tmp_path / "r", items=[item(0, 0.0)])).read_text(encoding="utf-8")
    badges = re.findall(r'<span class="badge (\w+)">([^<]*)</span>', html)
    assert badges == [("loss", "loses"), ("tie", "ties"), ("win", "better than before")] * 2


def test_the_headline_names_the_judge_and_the_doubts(tmp_path: Path) -> None:
    doubts = [Doubt("content-blind", "The reward does not read <b>the prompt</b>.")]
    evaluation = replace(EVALUATION, judges=["judge llama-3 (both orders)"], doubts=doubts)
    html = write_report(run_folder(tmp_path / "r", evaluation=evaluation)).read_text(encoding="utf-8")
    assert "<span>Verdicts by judge llama-3 (both orders).</span></h1>" in html
    assert "does not read &lt;b&gt;the prompt&lt;/b&gt;" in html
    assert html.index("does not read") < html.index("<h1>")
    older = write_report(run_folder(tmp_path / "older")).read_text(encoding="utf-8")
    assert "<span>Verdicts by function a.py:f and function b.py:g.</span></h1>" in older
    assert 'class="doubts"' not in older


def test_what_it_took_is_summed_over_the_steps(tmp_path: Path) -> None:
    tally = {"requests": 8.0, "cached": 2.0, "unreadable": 1.0, "failed": 0.0, "cost": 0.25, "flip": 0.5}
    judged = {f"judge_llama/{name}": value for name, value in tally.items()}
    rows = page_of(run_folder(tmp_path / "r", metrics=[step(1, **judged), step(2, **judged)])).rows
    assert ["llama", "16", "4", "2", "0", "50\N{NO-BREAK SPACE}%", "0.50"] in rows
    assert ["sampling", "2.0 s", "40\N{NO-BREAK SPACE}%"] in rows


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"manifest": None}, "This folder has no manifest.json"),
        ({"manifest": {}}, "This run is not finished;"),
        ({"metrics": []}, "No training steps were logged, so there are no curves."),
        ({"evaluation": None}, "This run has not been evaluated"),
        ({"items": []}, "This folder has no items.jsonl"),
        ({"metrics": [{"step": 1, "loss": 0.5}]}, "This run did not log: Mean reward; Wins"),
        ({"metrics": [{"step": 1, "verdict/win": 1.0}]}, "After 1 step, the answers beat"),
        (
            {"manifest": {**MANIFEST, "status": "interrupted"}, "metrics": [{"step": 12}]},
            "is not finished (status: interrupted); the page shows what it has recorded so far. "
            "It reached step 12 of 30.",
        ),
        (
            {"evaluation": replace(EVALUATION, models={"before": BEFORE}, gains=[])},
            "Before training, the answers beat the reference in 9.0 % of 300 prompts (6.0 to 12.7 %); "
            "the model was not evaluated after training.",
        ),
        (
            {"evaluation": replace(EVALUATION, models={"before": BEFORE, "after": replace(AFTER, missing=3)})},
            "The 'after' answers to 3 of 300 prompts have no verdict",
        ),
    ],
)
def test_a_missing_part_is_said_in_words(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    folder = run_folder(tmp_path / "r", **changes)  # type: ignore[arg-type]
    if changes.get("items") == []:
        (folder / "items.jsonl").unlink()
    assert sentence in page_of(folder).text.replace("\N{NO-BREAK SPACE}", " ")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contains no manifest\.json, metrics\.jsonl or evaluation\.json"):
        write_report(tmp_path)
    (tmp_path / "manifest.json").write_text("[1")
    with pytest.raises(InputError, match=r"manifest\.json: not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "evaluation.json").write_text('{"confidence": "high", "prompts": 3, "models": {}}')
    with pytest.raises(InputError, match="unreadable evaluation record, confidence"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_terminal_table_fits_80_columns_and_holds_every_number() -> None:
    console = Console(width=80, record=True, file=StringIO(), color_system=None)
    console.print(headline_table(EVALUATION))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert ["RAS, strict wins", "before", "9.0 %", "6.0 to 12.7 %", "300"] in rows
    assert ["after", "41.3 %", "35.7 to 47.0 %", "300"] in rows
    assert ["NAG, net", "after vs before", "+38.0 %", "+30.3 to +45.7 %", "300"] in rows
    assert ["Relative RAS gain", "after vs before", "+359.3 %", "+210.0 to +625.0 %", "300"] in rows


def test_markdown_table_is_rectangular() -> None:
    never_won = replace(GAIN, relative_ras=None)
    lines = headline_table(replace(EVALUATION, gains=[never_won])).markdown().splitlines()
    assert len(lines) == 2 + 9
    assert {line.count("|") for line in lines} == {6}
    assert lines[3] == "|  | after | 41.3 % | 35.7 to 47.0 % | 300 |"
    assert lines[-1] == "| Relative RAS gain | after vs before | not measured |  |  |"


def test_latex_table_is_escaped_and_ruled() -> None:
    rows = [Block([Row(["50 % of a_b & {c}", "-3.1 %"])]), Block([Row(["x^2 ~ \\y #$", "< 1"])])]
    assert Table(["arm_1", "RAS"], rows).latex() == (
        r"""\begin{tabular}{lr}
\toprule
arm\_1 & RAS \\
\midrule
50~\% of a\_b \& \{c\} & $-$3.1~\% \\
\midrule
x\textasciicircum{}2 \textasciitilde{} \textbackslash{}y \#\$ & \textless{} 1 \\
\bottomrule
\end{tabular}
"""
    )
    lines = headline_table(EVALUATION).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{llrrr}"
    assert lines[4] == r"RAS, strict wins & before & 9.0~\% & 6.0 to 12.7~\% & 300 \\"
    assert lines.count(r"\midrule") == 6  # one below the headings, five between six measures


def test_csv_table_quotes_what_it_must() -> None:
    table = plain_table("", ["name", "value"], [["a, b", "1"], ['"c"', ""]])
    assert table.csv() == 'name,value\n"a, b",1\n"""c""",\n'


def estimate(low: float, high: float, n: int = 300) -> Estimate:
    return Estimate((low + high) / 2, low, high, n)


@pytest.mark.parametrize(
    ("before", "after", "relative", "opening"),
    [
        ((0.1, 0.2), (0.3, 0.4), (0.5, 2.0), "The win rate rose significantly"),
        ((0.3, 0.4), (0.1, 0.2), (-0.8, -0.2), "The win rate fell significantly"),
        ((0.1, 0.2), (0.15, 0.25), (-0.1, 0.6), "The change is not significant"),
        ((0.1, 0.2), (0.15, 0.25), (0.01, 0.6), "The win rate rose significantly"),
        ((0.0, 0.01), (0.3, 0.4), None, "The win rate rose significantly"),
        ((0.0, 0.02), (0.01, 0.03), None, "The change is not significant"),
        ((0.2, 0.3), (0.0, 0.1), None, "The win rate fell significantly"),
    ],
)
def test_certainty_follows_the_interval(
    before: tuple[float, float], after: tuple[float, float], relative: tuple[float, float] | None, opening: str
) -> None:
    gain = replace(GAIN, relative_ras=relative and estimate(*relative))
    models = {"before": replace(BEFORE, ras=estimate(*before)), "after": replace(AFTER, ras=estimate(*after))}
    sentence = certainty(Evaluation(0.9, 300, models, [gain]))
    assert sentence.startswith(opening)
    assert "90 % confidence interval" in sentence


def test_nothing_measured_is_said() -> None:
    nothing = replace(AFTER, ras=Estimate(float("nan"), float("nan"), float("nan"), 0))
    evaluation = Evaluation(0.95, 5, {"before": BEFORE, "after": nothing})
    sentence = run_verdict(evaluation, 4)
    assert sentence.startswith("After 4 steps, no answer has a verdict against the reference; before training: 9.0 %")
    assert certainty(evaluation) == ""
    assert (share(nothing.ras), interval(nothing.ras)) == ("not measured", "")


def test_numbers_are_written_one_way() -> None:
    assert percent(0.41333, 300) == "41.3 %"
    assert percent(0.41333, 99) == "41 %"
    assert percent(-0.0001, 300, signed=True) == "+0.0 %"
    assert percent(-0.031, 300, signed=True) == "-3.1 %"
    assert [number(value) for value in (0.0012345, 12.345, 1234.5)] == ["0.00123", "12.3", "1,234"]
    assert [duration(value) for value in (4.25, 59.96, 185, 7620)] == ["4.2 s", "1 min 0 s", "3 min 5 s", "2 h 7 min"]
    assert typeset("-3.1 % of hh-0.5b, -x") == "\N{MINUS SIGN}3.1\N{NO-BREAK SPACE}% of hh-0.5b, -x"


def test_a_scale_fits_its_data() -> None:
    assert round_scale([0.12, 0.23]).ticks == [0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert round_scale([0.86, 0.93]).ticks == [0.86, 0.88, 0.9, 0.92, 0.94]
    assert round_scale([-0.5, 0.5]).ticks == [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]
    assert round_scale([0.0, 0.0]).ticks == [0, 0.002]
    assert round_scale([1.0, 6.9]).ticks == [0, 2, 4, 6, 8]
    scale = Block([Row(["a"], estimate(0.2, 0.4)), Row(["b"], estimate(0.1, 0.2), estimate(0.0, 0.5))]).scale
    assert scale is not None
    assert (scale.low, scale.high, scale.at(0.125)) == (0, 0.5, 25)
    assert Block([Row(["a"]), Row(["b"], estimate(0.2, 0.4, n=0))]).scale is None


def test_arms_have_the_colour_that_they_have_on_every_page() -> None:
    styles = arm_styles(["mine", "grpo", "grao", "other"])
    assert styles["grao"] == Style("blue")
    assert styles["grpo"] == Style("orange")
    assert (styles["mine"], styles["other"]) == (Style("teal"), Style("purple"))
    many = arm_styles([f"arm{index}" for index in range(14)])
    assert [style.colour for style in many.values()] == [*HUES, *HUES, *HUES[:2]]
    assert [style.dash for style in many.values()] == [0] * 6 + [1] * 6 + [2] * 2


@pytest.mark.parametrize("width", [1, 3, 7, 41])
def test_moving_average_is_the_mean_of_the_neighbours_that_exist(width: int) -> None:
    values = np.random.default_rng(0).normal(size=20)
    half = width // 2
    naive = [values[max(0, index - half) : index + half + 1].mean() for index in range(20)]
    assert figures.moving_average(values, width) == pytest.approx(np.array(naive))


def test_long_curves_are_thinned_to_means() -> None:
    values = np.arange(1000.0)
    assert figures.thin(values, 10) == pytest.approx(np.arange(49.5, 1000, 100))
    assert figures.thin(values[:10], 10) is not None
    assert list(figures.thin(values[:10], 10)) == list(range(10))
    assert [figures.window(steps) for steps in (1, 14, 30, 45, 120, 1000)] == [1, 1, 3, 3, 9, 67]


def test_stacks_use_the_steps_that_all_parts_have() -> None:
    chart = next(chart for section in figures.SECTIONS.values() for chart in section if chart.key == "verdicts")
    metrics = [step(1), {"step": 2, "verdict/win": 1.0}, step(3)]
    assert [list(curve.steps) for curve in figures.curves(chart, metrics)] == [[1, 3]] * 3


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    metrics = [step(index, kl=0.1, **{"tokens/trained": 2e6}) for index in range(1, 3001)]
    items = [item(index, (1.0, 0.0, -1.0)[index % 3], "x " * 5000, "y " * 5000) for index in range(30)]
    assert write_report(run_folder(tmp_path / "r", metrics=metrics, items=items)).stat().st_size < 700_000


def test_manifest_parts_are_all_optional(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(json.dumps({"config": None, "started": 5, "git": "abc"}))
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.seconds, manifest.complete, manifest.setting("training", "steps")) == (None, False, None)
    assert Manifest(started="2026-01-01T00:00:00", finished="2026-01-01T00:01:30").seconds == 90


def test_an_update_of_the_manifest_keeps_every_other_key_and_their_order(tmp_path: Path) -> None:
    recorded = {
        "status": "running",
        "finished": None,
        "config": {"seed": 3},
        "data": {"prompts": 3, "held_out": 0, "left_out": {}, "fingerprint": "f", "of_later": 1},
        "weights": {"all": 5, "trained": 5},
        "git": None,
        "of_a_later_version": [1, 2],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(recorded))
    update_manifest(tmp_path, status="finished", finished="2026-01-01T00:01:30+00:00")
    changed = {**recorded, "status": "finished", "finished": "2026-01-01T00:01:30+00:00"}
    assert (tmp_path / "manifest.json").read_text() == json.dumps(changed, indent=2) + "\n"
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.complete, manifest.data.prompts, manifest.weights.trained) == (True, 3, 5)


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_contrast_in_light_and_dark(full_report: Path, theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", full_report.read_text(encoding="utf-8"), re.DOTALL)
    palette = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[theme]))
    for surface in ("paper", "panel"):
        assert contrast(palette["ink"], palette[surface]) >= 7
        assert contrast(palette["muted"], palette[surface]) >= 4.5
    for kind in ("win", "tie", "loss"):
        assert contrast(palette[f"{kind}-ink"], palette[f"{kind}-fill"]) >= 4.5
    assert contrast(palette["note-ink"], palette["note-fill"]) >= 4.5
    for name in ("blue", "orange", "teal", "purple", "ochre", "grey"):
        assert contrast(palette[name], palette["paper"]) >= 3


RECIPE = """
model: {path: /home/me/models/tiny, lora: {}}
data: {path: data.jsonl, held_out: 20}
rewards: [{function: /home/me/rewards.py:short, weight: 0.5}, {judge: {model: llama, criterion: ~/help.txt}}]
output: /home/me/runs/one
method: {name: dpo, beta: 0.3}
training: {steps: 5}
"""


def test_the_differences_from_the_defaults_are_the_same_recipe() -> None:
    recipe = ADAPTER.validate_python(yaml.safe_load(RECIPE), by_alias=True)
    whole = ADAPTER.dump_python(recipe, mode="json", by_alias=True)
    few = differences(whole)
    assert ADAPTER.validate_python(yaml.safe_load(as_yaml(few)), by_alias=True) == recipe
    assert few["training"] == {"steps": 5}
    assert few["model"] == {"path": "/home/me/models/tiny", "lora": {}}
    assert "rollout" not in few
    assert few["method"] == {"name": "dpo", "beta": 0.3}


def test_no_home_folder_stands_on_a_page(tmp_path: Path) -> None:
    recipe = ADAPTER.validate_python(yaml.safe_load(RECIPE), by_alias=True)
    config = ADAPTER.dump_python(recipe, mode="json", by_alias=True)
    manifest = {**MANIFEST, "config": config, "command": "grao train --config /home/me/runs/one/recipe.yaml"}
    html = write_report(run_folder(tmp_path / "r", manifest)).read_text(encoding="utf-8")
    assert "/home/me" not in html
    assert "grao train --config recipe.yaml" in html
    assert files(config) == ["tiny", "rewards.py", "help.txt"]
    assert portable({"a": ["/x/y.py:f", "org/model", "C:\\Users\\me\\b.json", 3]}) == {
        "a": ["y.py:f", "org/model", "b.json", 3]
    }


def test_what_to_do_next_fits_the_result() -> None:
    finished = Manifest(**MANIFEST)
    steps = [step(1), step(2)]

    def commands(evaluation: Evaluation | None, manifest: Manifest = finished, **more: float) -> list[str]:
        return [each.command for each in next_steps("my run", manifest, [*steps, {"step": 3, **more}], evaluation)]

    audit = "grao reward audit --config 'my run/recipe.yaml'"
    clear = commands(EVALUATION)
    assert clear[0] == "grao train --config 'my run/recipe.yaml' --seed 8 --output 'my run'-seed8"
    assert clear[-1] == audit
    assert commands(replace(EVALUATION, doubts=[Doubt("content-blind", "")]))[0] == audit
    assert commands(None)[0] == "grao evaluate --run 'my run'"
    stopped = commands(None, finished.model_copy(update={"status": "interrupted"}))
    assert stopped[0] == "grao train --resume 'my run'"
    flat = commands(replace(EVALUATION, models={"before": BEFORE, "after": BEFORE}))
    assert "--training.steps 6 " in flat[0]
    staged = finished.model_copy(update={"steps": 800, "stages": ["sft", "grpo"]})
    lasting = commands(replace(EVALUATION, models={"before": BEFORE, "after": BEFORE}), staged)
    assert "--training.steps 60 " in lasting[0]  # 30 of the 800 were those of the last stage
    assert commands(EVALUATION, **{"watch/alarm": 2.0})[0] == audit
    untrained = [each.command for each in next_steps("e", finished, [], replace(EVALUATION, gains=[]))]
    assert untrained == ["grao train --config e/recipe.yaml --output e-trained", audit.replace("'my run/", "e/")[:-1]]
    assert next_steps("e", None, [], EVALUATION) == []
    for evaluation in (None, EVALUATION):
        assert 2 <= len(commands(evaluation)) <= 4


STUDIES = Path(__file__).resolve().parents[1] / "studies"


def test_what_to_do_next_with_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grao.evaluation.inference.DRAWS", 2)
    result = recorded_result(STUDIES / "terms-weak-ablation")
    assert result is not None
    compare = "grao compare --config 'my study/study.yaml' --output 'my study'"
    seeds = sorted({seed for arm in result.arms for seed in arm.seeds})
    steps = [each.command for each in study_steps("my study", result)]
    assert steps[-1] == f"{compare}-longer --budget.steps 120"
    few = replace(result, arms=[replace(arm, seeds=[5]) for arm in result.arms], budget="2,000 steps")
    asked, longer = [each.command for each in study_steps("my study", few)]
    assert len(seeds) > 1
    assert asked.startswith(f"{compare} --seeds '[5, 0, 1, 2, 3")
    assert longer.endswith("--budget.steps 6000")
    assert study_steps("s", replace(few, absent=["grao"], budget="60 seconds"))[0].command.endswith("s --retry")


def test_no_folder_of_the_machine_stands_in_a_study() -> None:
    lines = [r"path: /home/me/models/big", "f: '/x/y.py:short'", "url: https://a.b/c/d", "hub: org/model", "l:"]
    lines += ["- ~/k k/l m.txt", "- r/x", r'domain: "a\n\n/b (/c/d)"', "n: /"]
    told = ["path: big", "f: 'y.py:short'", *lines[2:5], "- l m.txt", *lines[6:]]
    assert portable_text("\n".join(lines)).splitlines() == told
