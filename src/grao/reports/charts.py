"""Which charts the page shows, one `Chart` each. To add a curve, add a chart."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Series:
    """One logged metric with its label and a colour of `figures.COLOURS`."""

    metric: str
    label: str
    colour: str = "blue"


@dataclass(frozen=True)
class Chart:
    """One figure."""

    key: str
    title: str
    note: str
    axis: str
    """Label of the vertical axis, with its unit."""
    series: tuple[Series, ...]
    kind: Literal["line", "stack"] = "line"
    """A stack is built from the first series upwards."""
    percent: bool = False
    """The values are shares."""
    zero: str | None = None
    """What the dashed line at 0 stands for; None draws none."""
    optional: bool = False
    """Not missed where it was not logged."""


EARNED, HACKED = "What the samples earn", "Whether the reward is being hacked"
"""Sections in which charts stand whose curves the recipe names (`named_charts`)."""

SECTIONS: tuple[tuple[str, tuple[Chart, ...]], ...] = (
    (
        EARNED,
        (
            Chart(
                "reward",
                "Reward of the samples",
                "Measured against the reference: above zero the average sample is the better one.",
                "reward minus the reference's",
                (Series("reward/mean", "mean over samples"),),
                zero="reference",
            ),
            Chart(
                "verdicts",
                "Wins, ties and losses",
                "How the samples fare against the reference.",
                "share of samples (%)",
                (
                    Series("verdict/win", "wins", "blue"),
                    Series("verdict/tie", "ties", "grey"),
                    Series("verdict/loss", "losses", "orange"),
                ),
                kind="stack",
                percent=True,
            ),
        ),
    ),
    (
        HACKED,
        (
            Chart(
                "watch",
                "Two rewards",
                "The reward that is trained on, and one that only looks on. Both rising is progress; the second "
                "falling while the first rises is a reward that is hacked.",
                "samples that beat the reference (%)",
                (
                    Series("watch/first", "trained on", "blue"),
                    Series("watch/second", "looks on", "orange"),
                ),
                percent=True,
                optional=True,
            ),
            Chart(
                "watch-signs",
                "What shows in the answers",
                "Copied from the reference, refused, repeated: what a hacked reward often pays for.",
                "share (%)",
                (
                    Series("watch/overlap", "copied", "purple"),
                    Series("watch/refusal", "refusals", "grey"),
                    Series("watch/repetition", "repeated", "ochre"),
                ),
                percent=True,
                optional=True,
            ),
        ),
    ),
    (
        "What drives the update",
        (
            Chart(
                "terms",
                "The three terms of the loss",
                "The share of each in the size of the loss: imitation follows the reference, exploration the samples.",
                "share of the loss (%)",
                (
                    Series("terms_share/imitation", "imitation", "purple"),
                    Series("terms_share/regulariser", "regulariser", "ochre"),
                    Series("terms_share/exploration", "exploration", "teal"),
                ),
                kind="stack",
                percent=True,
            ),
            Chart(
                "reference-weight",
                "Weight of the reference",
                "How strongly a step pulls towards the reference answer (w_y); below zero it pushes away from it.",
                "effective weight",
                (Series("reference_weight/mean", "mean over prompts", "purple"),),
                zero="neither towards nor away",
            ),
            Chart(
                "groups",
                "Groups out of the ordinary",
                "A group is one prompt with its samples and its reference.",
                "share of groups (%)",
                (
                    Series("groups/no_signal", "all rewards equal, nothing to learn", "ochre"),
                    Series("reference_weight/negative", "pushed away from the reference", "purple"),
                    Series("groups/dropped", "left out, too few rewards", "grey"),
                ),
                percent=True,
            ),
            Chart(
                "gradient",
                "Size of the gradient",
                "Before clipping.",
                "L2 norm",
                (Series("grad_norm", "norm", "blue"),),
            ),
            Chart(
                "clipped",
                "Tokens that no longer count",
                "Their probability has already moved as far as one batch of samples may move it.",
                "share of tokens (%)",
                (Series("ratio/clipped", "clipped", "teal"),),
                percent=True,
                optional=True,
            ),
            Chart(
                "margin",
                "Reference above the rejected answer",
                "By how much more likely the reference has become than the rejected answer, times beta.",
                "margin (nats)",
                (Series("dpo/margin", "mean over pairs", "purple"),),
                zero="as before training",
                optional=True,
            ),
            Chart(
                "critic",
                "The critic",
                "How far its expectation is from what the samples earned.",
                "half the squared error",
                (Series("critic/loss", "mean over samples", "ochre"),),
                optional=True,
            ),
            Chart(
                "likelihood",
                "Likelihood of the references",
                "Rises while they are imitated.",
                "nats per token",
                (Series("reference/loglik", "mean over references", "purple"),),
                optional=True,
            ),
        ),
    ),
    (
        "What the model writes",
        (
            Chart(
                "length",
                "Length of the samples",
                "Mean over the samples of a step.",
                "tokens",
                (Series("completion/tokens", "mean length", "teal"),),
            ),
            Chart(
                "truncated",
                "Samples that were cut or not scored",
                "Cut at the token limit; without a reward.",
                "share of samples (%)",
                (
                    Series("completion/truncated", "cut", "orange"),
                    Series("reward/missing", "not scored", "grey"),
                ),
                percent=True,
            ),
            Chart(
                "entropy",
                "Entropy",
                "How undecided the model is at each token; near zero it always says the same.",
                "nats per token",
                (Series("entropy", "mean over tokens", "blue"),),
            ),
            Chart(
                "kl",
                "Distance from the starting model",
                "KL divergence, measured on the samples.",
                "KL (nats per token)",
                (Series("kl", "mean over tokens", "purple"),),
                optional=True,
            ),
        ),
    ),
    (
        "What a step costs",
        (
            Chart(
                "seconds",
                "Time per step",
                "Where the seconds of a step go.",
                "seconds",
                (
                    Series("seconds/rollout", "sampling", "teal"),
                    Series("seconds/reward", "rewards", "ochre"),
                    Series("seconds/update", "update", "purple"),
                ),
                kind="stack",
            ),
            Chart(
                "tokens",
                "Tokens per step",
                "Tokens that are sampled, and those that pass through the update.",
                "tokens",
                (
                    Series("tokens/sampled", "sampled", "teal"),
                    Series("tokens/trained", "trained on", "purple"),
                ),
                optional=True,
            ),
            Chart(
                "utilisation",
                "Use of the machine",
                "Operations that the step needs, as a share of what the device does when it only multiplies matrices.",
                "share of the peak",
                (Series("speed/utilisation", "whole step", "teal"),),
                percent=True,
                optional=True,
            ),
        ),
    ),
)
