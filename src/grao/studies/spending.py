"""Questions to judges on servers and their cost while a command runs, read from the judges' ledgers.

A ledger counts all processes of a run together. Local judges and answers from the ledger are not counted.
"""

from contextlib import suppress

from grao.config.recipe import Recipe
from grao.errors import InputError
from grao.rewards.judge.ledger import Ledger
from grao.rewards.judge.server import ledger_path


class Spending:
    """Total questions and cost of one or more successive runs."""

    def __init__(self) -> None:
        self._ledgers: list[tuple[Ledger, tuple[int, float]]] = []
        self._questions, self._cost = 0, 0.0

    def follow(self, recipe: Recipe) -> None:
        """Count this run from now on, in addition to the runs before it.

        Raises:
            InputError: if a ledger cannot be used.
        """
        self._questions, self._cost = self.total()
        for ledger, _ in self._ledgers:
            ledger.close()
        others = [section for section in (recipe.watch and recipe.watch.reward, recipe.audit.second) if section]
        judges = [section.judge for section in (*recipe.rewards, *others) if section.judge]
        paths = {ledger_path(judge.ledger, recipe.output) for judge in judges if judge.model and not judge.replay}
        # Own connections: those of the judges belong to the event loop's thread.
        ledgers = [Ledger(path, run=str(recipe.output.absolute())) for path in paths]
        self._ledgers = [(ledger, ledger.asked()) for ledger in ledgers]

    def total(self) -> tuple[int, float]:
        """Return the number of answered questions, and their cost in the currency of the prices."""
        questions, cost = self._questions, self._cost
        for ledger, (answers_before, paid_before) in self._ledgers:
            with suppress(InputError):  # the judge reports the error itself
                answers, paid = ledger.asked()
                questions, cost = questions + answers - answers_before, cost + paid - paid_before
        return questions, cost

    @property
    def words(self) -> str:
        """`1,204 questions, 0.42 paid`; empty without a judge on a server."""
        questions, cost = self.total()
        paid = f", {cost:,.2f} paid" if cost >= 0.1 else f", {cost:.2g} paid" if cost else ""
        return f"{questions:,} question{'s' * (questions != 1)}{paid}" if self._ledgers or questions else ""
