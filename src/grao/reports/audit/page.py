"""One audit as one self-contained page, in the look of a run's report. The same audit gives the same page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from grao.records.audit import Audit, RewardFigures
from grao.reports.audit.cases import MOST, cases
from grao.reports.audit.figures import calibration_picture, groups_picture
from grao.reports.audit.rows import agreement_block, forecast_block, policy_block, reward_blocks
from grao.reports.audit.words import deciding, headline, title
from grao.reports.blocks import Tile, bar
from grao.reports.provenance import flat, manifest_of, recipe_text, settings
from grao.reports.template import render_template
from grao.reports.words import duration, share


@dataclass(frozen=True)
class Picture:
    """A drawing with its words."""

    title: str
    note: str
    svg: Markup


def write_audit_page(folder: Path, audit: Audit) -> Path:
    """Writes `audit.html` into a folder that is there, and returns its path."""
    path = folder / "audit.html"
    path.write_text(render(audit, folder.resolve().name), encoding="utf-8")
    return path


def render(audit: Audit, name: str) -> str:
    """The page as HTML. All text is escaped; control characters are made visible."""
    manifest = manifest_of(audit.manifest)
    return render_template(
        "audit/page.html.j2",
        name=name,
        audit=audit,
        headline=headline(audit.verdict),
        tiles=list(_tiles(audit)),
        rewards=[(title(reward), reward_blocks(reward)) for reward in audit.rewards],
        agreements=agreement_block(audit.agreements),
        policy=policy_block(audit.policy),
        forecast=forecast_block(audit.forecast),
        pictures=list(_calibrations(audit.rewards)),
        groups=_groups(audit),
        cases=cases(audit),
        most=MOST,
        bar=bar,
        manifest=manifest,
        settings=settings(manifest.config),
        command=manifest.command,
        recipe=recipe_text(manifest.config) if manifest.config else "",
        facts={"Data": flat(manifest.data), "Run": flat(manifest.provenance), "Versions": flat(manifest.versions)},
    )


def _tiles(audit: Audit) -> Iterator[Tile]:
    accuracy = deciding(audit).accuracy
    if accuracy and accuracy.half_ties:
        yield Tile(share(accuracy.half_ties), f"right on {accuracy.half_ties.n:,} pairs")
    yield Tile(share(audit.policy.mean_beats), "of the references beaten already")
    yield Tile(share(audit.policy.no_signal), "of the groups without signal")
    yield Tile(duration(3600 * audit.forecast.hours), "for the whole run, here")
    for judge in audit.forecast.judges:
        if judge.cost:
            yield Tile(f"{judge.cost:,.2f}", f"for judge {judge.name}, at most about")


def _calibrations(rewards: list[RewardFigures]) -> Iterator[Picture]:
    note = (
        "Pairs of similar confidence, and how many of them are right. On the dashed line a probability is what it says."
    )
    for index, reward in enumerate(rewards):
        if reward.calibration:
            yield Picture(reward.name, note, calibration_picture(reward.calibration, f"calibration-{index}"))


def _groups(audit: Audit) -> Picture | None:
    if not any(reward is not None for group in audit.groups for reward in group.rewards):
        return None
    note = (
        "A line from the worst to the best sample of each prompt, a dot for their mean. Above zero beats the reference."
    )
    return Picture("Rewards prompt by prompt", note, groups_picture(audit.groups, "groups"))
