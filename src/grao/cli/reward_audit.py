"""`grao reward audit`: what a reward is worth, before anything is spent on training with it."""

from grao.cli.arguments import RewardAuditArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import TerminalScreen, open_console
from grao.reports.audit.table import audit_tables, verdict_words
from grao.studies.audit import audit_folder, audit_rewards


def run(arguments: RewardAuditArguments) -> int:
    """Audits, writes, and ends with the verdict in words."""
    console = open_console()
    folder = audit_folder(arguments.recipe)
    with quiet_libraries():
        audit = audit_rewards(arguments.recipe, TerminalScreen(console))
    console.print(audit_tables(audit))
    for name in ("audit.html", "audit.json"):
        console.print(f"{name:12}{folder / name}", highlight=False, soft_wrap=True)
    console.print()
    console.print(verdict_words(audit.verdict))
    return 0
