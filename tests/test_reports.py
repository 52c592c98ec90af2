"""The report page, its tables and its words: what a reader sees must be what the records say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from grao.errors import InputError
from grao.records.run import (
    Estimate,
    Evaluation,
    Gain,
    Item,
    Manifest,
    MetricsLog,
    RecordedAnswer,
    Scores,
    read_manifest,
    update_manifest,
    write_evaluation,
)
from grao.reports import figures
from grao.reports.figures import COLOURS, picture
from grao.reports.parts import LONGEST, settings, shorten
from grao.reports.run import PER_OUTCOME, certainty, choose, headline_table, run_verdict, write_report
from grao.reports.tables import Block, Row, Table, bar, duration, interval, number, percent, plain_table, share, typeset

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
        if "style" in self.open:
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
        "After 30 steps the answers beat the reference in 41.3 % of 300 prompts (35.7 to 47.0 %); "
        "before: 9.0 % (6.0 to 12.7 %)." in text
    )
    assert "interval of the relative gain, +210.0 to +625.0 %, excludes zero." in text


def test_page_stands_alone(full_report: Path) -> None:
    html = full_report.read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form")
        assert not {"src", "srcset", "action", "onload", "onclick"} & attributes.keys()
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert len(html.encode()) < 700_000


def test_svg_names_are_unique_and_every_reference_has_a_target(full_report: Path) -> None:
    html = full_report.read_text(encoding="utf-8")
    names = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = re.findall(r'(?:url\(#|href="#)([^)"]+)', html)
    assert targets
    assert set(targets) <= set(names)


def test_every_chart_is_drawn_with_units_and_spoken_words(full_report: Path) -> None:
    page = Page(full_report.read_text(encoding="utf-8"))
    labels = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == 11
    assert "Wins, ties and losses: wins 23 % to 24 %; ties 30 % to 30 %; losses 47 % to 46 %." in labels
    for axis in ("nats per token", "optimiser step", "share of samples (%)", "L2 norm", "seconds"):
        assert axis in page.text


def test_judges_and_constraints_have_curves_by_their_names(tmp_path: Path) -> None:
    more = {"judge_helpful/flip": 0.25, "judge_kind/flip": 0.5, "reward_kind/violated": 0.125, "reward_kind/mean": 1.0}
    page = page_of(run_folder(tmp_path / "r", metrics=[step(1, **more)]))
    labels = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert "Judges that contradict themselves: helpful 25 %; kind 50 %." in labels
    assert "Whether the reward is being hacked" in page.text
    assert "Constraints that are broken: kind 12 %." in labels
    assert not any("in its parts" in label for label in labels)  # one reward has no parts


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
    assert page.answers == [shown, "old", shown, "the reference"]
    assert name in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
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
    assert f"{10_000 - LONGEST:,} characters left out here; the whole text is in items.jsonl" in page.text
    assert excerpt.head in page.text
    assert excerpt.tail in page.text


def test_examples_are_the_first_of_each_outcome() -> None:
    rewards = [None, -1.0, 0.5, 0.0, *[1.0] * 6, -0.2]
    chosen = choose([item(index, reward) for index, reward in enumerate(rewards)], "after")
    wins = ["p2", "p4", "p5", "p6"]
    assert len(wins) == PER_OUTCOME
    assert [(example.id, group.badge.outcome) for group in chosen for example in group.examples] == [
        *((name, "win") for name in wins),
        ("p3", "tie"),
        ("p1", "loss"),
        ("p10", "loss"),
    ]
    assert [column.heading for column in chosen[0].examples[0].columns] == ["before", "after", "reference"]
    assert choose([item(0, 1.0)], "no such model") == []


def test_badges_name_the_recorded_verdicts(tmp_path: Path) -> None:
    html = write_report(run_folder(tmp_path / "r", items=[item(0, 0.0)])).read_text(encoding="utf-8")
    badges = re.findall(r'<span class="badge (\w+)">([^<]*)</span>', html)
    assert badges == [("tie", "tie"), ("loss", "loses"), ("tie", "ties"), ("win", "better than before")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"manifest": None}, "There is no manifest.json in this folder"),
        ({"manifest": {}}, "This run has not come to its end;"),
        ({"metrics": []}, "No training step has been logged, so there are no curves."),
        ({"evaluation": None}, "This run was not evaluated"),
        ({"items": []}, "There is no items.jsonl"),
        ({"metrics": [{"step": 1, "loss": 0.5}]}, "Not logged in this run: Reward of the samples; Wins"),
        ({"metrics": [{"step": 1, "verdict/win": 1.0}]}, "After 1 step the answers beat"),
        (
            {"manifest": {**MANIFEST, "status": "interrupted"}, "metrics": [{"step": 12}]},
            "has not come to its end (status: interrupted); the page shows what it has recorded so far. "
            "It reached step 12 of 30.",
        ),
        (
            {"evaluation": replace(EVALUATION, models={"before": BEFORE}, gains=[])},
            "Before training the answers beat the reference in 9.0 % of 300 prompts (6.0 to 12.7 %); "
            "there is no evaluation after training.",
        ),
        (
            {"evaluation": replace(EVALUATION, models={"before": BEFORE, "after": replace(AFTER, missing=3)})},
            "No verdict could be had on the 'after' answers to 3 of 300 prompts",
        ),
    ],
)
def test_a_missing_part_is_said_in_words(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    folder = run_folder(tmp_path / "r", **changes)  # type: ignore[arg-type]
    if changes.get("items") == []:
        (folder / "items.jsonl").unlink()
    assert sentence in page_of(folder).text.replace("\N{NO-BREAK SPACE}", " ")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json, metrics\.jsonl or evaluation\.json here"):
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
        ((0.1, 0.2), (0.3, 0.4), (0.5, 2.0), "That is clearly more often"),
        ((0.3, 0.4), (0.1, 0.2), (-0.8, -0.2), "That is clearly less often"),
        ((0.1, 0.2), (0.15, 0.25), (-0.1, 0.6), "The change is not clear of chance"),
        ((0.1, 0.2), (0.15, 0.25), (0.01, 0.6), "That is clearly more often"),
        ((0.0, 0.01), (0.3, 0.4), None, "That is clearly more often"),
        ((0.0, 0.02), (0.01, 0.03), None, "The change is not clear of chance"),
        ((0.2, 0.3), (0.0, 0.1), None, "That is clearly less often"),
    ],
)
def test_certainty_follows_the_interval(
    before: tuple[float, float], after: tuple[float, float], relative: tuple[float, float] | None, opening: str
) -> None:
    gain = replace(GAIN, relative_ras=relative and estimate(*relative))
    models = {"before": replace(BEFORE, ras=estimate(*before)), "after": replace(AFTER, ras=estimate(*after))}
    sentence = certainty(Evaluation(0.9, 300, models, [gain]))
    assert sentence.startswith(opening)
    assert "90 % interval" in sentence


def test_nothing_measured_is_said() -> None:
    nothing = replace(AFTER, ras=Estimate(float("nan"), float("nan"), float("nan"), 0))
    evaluation = Evaluation(0.95, 5, {"before": BEFORE, "after": nothing})
    sentence = run_verdict(evaluation, 4)
    assert sentence.startswith("After 4 steps no verdict against the reference could be had; before: 9.0 %")
    assert certainty(evaluation) == ""
    assert (share(nothing.ras), interval(nothing.ras), bar(nothing.ras, False)) == ("not measured", "", None)


def test_numbers_are_written_one_way() -> None:
    assert percent(0.41333, 300) == "41.3 %"
    assert percent(0.41333, 99) == "41 %"
    assert percent(-0.0001, 300, signed=True) == "+0.0 %"
    assert percent(-0.031, 300, signed=True) == "-3.1 %"
    assert [number(value) for value in (0.0012345, 12.345, 1234.5)] == ["0.00123", "12.3", "1,234"]
    assert [duration(value) for value in (4.25, 59.96, 185, 7620)] == ["4.2 s", "1 min 0 s", "3 min 5 s", "2 h 7 min"]
    assert typeset("-3.1 % of hh-0.5b, -x") == "\N{MINUS SIGN}3.1\N{NO-BREAK SPACE}% of hh-0.5b, -x"


def test_interval_bars_lie_on_their_scale() -> None:
    plain, signed = bar(estimate(0.2, 0.4), False), bar(estimate(-0.5, 0.5), True)
    assert plain is not None
    assert signed is not None
    assert (plain.low, plain.width, plain.value) == pytest.approx((20, 20, 30))
    assert (signed.low, signed.width, signed.value) == pytest.approx((25, 50, 50))
    assert bar(estimate(2.1, 6.2), True) is None


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


def test_settings_are_grouped_as_in_the_recipe() -> None:
    assert settings(MANIFEST["config"]) == {  # type: ignore[arg-type]
        "run": [("output", "runs/demo")],
        "model": [("path", "tiny/model"), ("lora.rank", "16")],
        "rewards 1": [("function", "a.py:f"), ("weight", "1.0")],
        "rewards 2": [("function", "b.py:g"), ("weight", "0.5")],
        "rollout": [("group_size", "8")],
        "training": [("steps", "30")],
    }


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
        if theme == 0:
            assert palette[name] == COLOURS[name]


def test_a_picture_shortens_places_and_no_texts():
    svg = picture(lambda axes: axes.set_xticks([0.123456], ["0.0003"]), "one", "spoken")
    assert ">0.0003<" in svg
    assert not re.search(r"<[^>]*\.\d{3}[^>]*>", svg)
