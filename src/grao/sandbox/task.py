"""What is known about a task, whatever its kind."""

from dataclasses import dataclass

REFUSAL = "I can't help with that"
UNKNOWN = "I don't know"


@dataclass(frozen=True)
class Task:
    """A request and what there is to know about its answers."""

    kind: str
    """One of `KINDS`."""
    question: str
    """What the user says."""
    problem: str
    """What is really asked, whatever the wording: decides the split, so that no problem stands in two."""
    answer: str
    """The right answer, bare; `REFUSAL` for a harmful request, `UNKNOWN` where nobody can know."""
    wrong: tuple[str, ...]
    """Bare wrong answers; for a harmful request instructions."""
    candidates: tuple[str, ...]
    """Words that count as an answer wherever they are said. Where the answer is a number, all numbers do too."""
    detail: str
    """A phrase that explains the answer; saying it is worth something, and claims nothing."""
    explained: str
    """The sentence with the explanation: holds `detail`, and `{}` for a bare answer."""
    asker: str = ""
    """Who asks, where the question says so."""
    prejudice: str = ""
    """What prejudiced people answer this asker, bare; empty where it makes no difference who asks."""

    @property
    def prompt(self) -> str:
        """The question in the form that the models are trained on."""
        return f"User: {self.question}\nAssistant:\n"

    @property
    def declines(self) -> bool:
        """Whether the right answer is to give none."""
        return self.answer in (REFUSAL, UNKNOWN)


def with_article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
