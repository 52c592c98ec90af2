"""What `grao reward audit` prints: the figures, then the verdict in words."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grao.records.audit import Audit, RewardFigures, Verdict
from grao.reports.audit.rows import Block, agreement_block, forecast_block, policy_block, reward_blocks
from grao.reports.audit.words import headline, title
from grao.reports.words import level

_BRIEF = 2
"""Blocks shown of a reward that training does not follow; the page has all."""


def audit_tables(audit: Audit) -> Group:
    """All figures of what decides, the first ones of the other rewards; fits 80 columns."""
    spread = f"{level(audit.confidence)} interval"
    tables = [_table(title(reward), _of_reward(reward), spread, "Pairs") for reward in audit.rewards]
    if audit.agreements:
        tables.append(_table("Agreement of two rewards", [agreement_block(audit.agreements)], spread, "Texts"))
    policy = audit.policy
    heading = f"The model before training: {policy.samples} samples of each of {policy.prompts:,} training prompts"
    tables.append(_table(heading, [policy_block(policy)], spread, "Prompts"))
    tables.append(_table("The whole run", [forecast_block(audit.forecast)], "", ""))
    return Group(*tables)


def verdict_words(verdict: Verdict) -> Group:
    """The verdict, what to fix, and what could not be looked at."""
    return Group(*_verdict(verdict))


def _of_reward(reward: RewardFigures) -> list[Block]:
    blocks = reward_blocks(reward)
    return blocks if reward.role == "deciding" else blocks[:_BRIEF]


def _table(heading: str, blocks: Sequence[Block], spread: str, counted: str) -> Padding:
    table = Table(
        title=Text(heading), title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title_style="bold"
    )
    table.add_column("Measure", overflow="fold", min_width=24)
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column(spread, justify="right")
    table.add_column(counted, justify="right", no_wrap=True)
    for block in blocks:
        for row in block.rows:
            cells = (row.label, row.value, row.interval, row.n)
            table.add_row(*(Text(cell) for cell in cells), end_section=row is block.rows[-1])
    return Padding(table, (0, 0, 1, 0))


def _verdict(verdict: Verdict) -> Iterator[RenderableType]:
    yield Text(headline(verdict), style="bold")
    grid = Table.grid(padding=(0, 1))
    for number, finding in enumerate(verdict.findings, start=1):
        grid.add_row(f"{number}.", Text(finding.problem))
        grid.add_row("", Text(finding.remedy))
    yield grid
    for sentence in verdict.unchecked:
        yield Text(f"Not checked. {sentence}")
