"""The verdict of an audit in a sentence, and what was done in numbers."""

from grao.records.audit import Audit, RewardFigures, Verdict


def headline(verdict: Verdict) -> str:
    """Safe to train, or how much there is to fix."""
    if not verdict.safe:
        count = len(verdict.findings)
        return f"Not yet: {'one thing' if count == 1 else f'{count} things'} to fix before you train."
    if verdict.unchecked:
        return "Safe to train, as far as this audit could look."
    return "Safe to train: nothing that this audit looks at speaks against it."


def deciding(audit: Audit) -> RewardFigures:
    """What training follows."""
    return next(reward for reward in audit.rewards if reward.role == "deciding")


def title(reward: RewardFigures) -> str:
    """A reward with its part in the run."""
    if reward.kind == "sum":
        return "The sum of the rewards, which training follows"
    parts = {"deciding": "which training follows", "part": "part of the sum", "second": "to compare with"}
    return f"{reward.name}, a {reward.kind}, {parts[reward.role]}"
