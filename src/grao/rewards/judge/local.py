"""A judge without a server: a causal language model in this process that gives probabilities of the three verdicts.

Nothing is sampled. Each verdict is appended to the question where the chat template puts an answer, after any thinking
block, and the probabilities, normalised to sum to one, come from a batched forward pass. Only tokens from the first one
that differs between the verdicts count, so it does not matter how the tokenizer joins a verdict to the question.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.chat import mark_tokens, prompt_text, set_arguments, token_ids, turn_of
from grao.config.rewards import LocalJudgeConfig
from grao.core import merge_ties, rounding
from grao.engine.limits import check_tokens, padding_id, positions
from grao.engine.loading import check_finite, load_model, load_tokenizer
from grao.engine.padded import completion_likelihood
from grao.errors import InputError
from grao.rewards.judge.base import KNOWN, JudgedPair, JudgeTally, OrderedPair, Orders, Pair, combine, orders_of
from grao.rewards.judge.thoughts import end_of_thoughts
from grao.rewards.judge.wording import PairVerdict, Template, context_text
from grao.rewards.model import local_device

_TAIL = 40
"""Characters from the end of a question, by which it is located in a rendered template."""


class LocalJudge:
    """A judge that runs a model in this process.

    The verdict is the most probable of the three, or a tie if the probabilities of better and worse differ by less than
    `tie_margin`. A question that is too long for the model has no verdict.

    Args:
        model: a causal language model; moved to this process's GPU if there is one.
        tokenizer: the model's; its chat template, if there is one, is applied to the question.
        template: the wording.
        orders: `both`, or `one` drawn from the seed.
        seed: draws that order.
        tie_margin: difference of two probabilities, 0 to 1.
        batch_size: questions per forward pass.

    Raises:
        InputError: if the tokenizer cannot tell the verdicts apart, or a weight of the model is not finite.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        orders: Orders = "both",
        seed: int = 0,
        tie_margin: float = 0.0,
        batch_size: int = 8,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(local_device())
        self.tokenizer, self.template, self.orders, self.seed = tokenizer, template, orders, seed
        self.tie_margin, self.batch_size = tie_margin, batch_size
        self.name = str(model.config._name_or_path).rstrip("/").rpartition("/")[2] or "judge"
        self.tally = JudgeTally()
        self._turn = turn_of(tokenizer)
        check_finite(model, f"judge {self.name}")
        if not all(self._tokens(OrderedPair(KNOWN, swapped=False))[1]):
            message = "its tokenizer cannot tell the three verdicts apart; choose another model"
            raise InputError(f"judge {self.name}: {message}")

    @classmethod
    def from_section(cls, config: LocalJudgeConfig, template: Template, orders: Orders, seed: int) -> "LocalJudge":
        """Build the judge of a recipe.

        Args:
            config: its section `local`.
            template: the wording.
            orders: `both`, or `one` drawn from the seed.
            seed: draws that order.

        Raises:
            InputError: if there is no such model, or its tokenizer cannot tell the verdicts apart.
        """
        model, tokenizer = load_model(config.path, config.dtype), load_tokenizer(config.path)
        set_arguments(tokenizer, config.chat_template_kwargs, "judge.local.chat_template_kwargs")
        return cls(model, tokenizer, template, orders, seed, config.tie_margin, config.batch_size)

    def compare(self, pairs: Sequence[Pair]) -> list[JudgedPair]:
        """See `PairwiseJudge.compare`; the results contain probabilities."""
        shown = [orders_of(pair, self.orders, self.seed) for pair in pairs]
        probabilities = self.probabilities([order for orders in shown for order in orders])
        self.tally = JudgeTally(requests=len(probabilities), unreadable=int(probabilities.isnan().any(dim=1).sum()))
        per_pair = probabilities.split(list(map(len, shown)))
        return [self._judged(*judged) for judged in zip(shown, per_pair, strict=True)]

    def check(self) -> None:
        """Do nothing: loading the model already reports any mistake."""

    @torch.no_grad()
    def probabilities(self, questions: Sequence[OrderedPair]) -> Tensor:
        """Return P(Text 1 better), P(tie), P(Text 2 better) as (N, 3) float64; NaN if a question is too long."""
        tokens = [self._tokens(question) for question in questions]
        longest = positions(self.model)
        all_tokens = [token for shared, ends in tokens for ids in (shared, *ends) for token in ids]
        check_tokens(self.model, self.tokenizer, f"judge {self.name}", all_tokens)
        lengths = [len(shared) + max(map(len, ends)) for shared, ends in tokens]
        # Sorted by length, to minimise padding.
        fitting = sorted((i for i, n in enumerate(lengths) if not longest or n <= longest), key=lengths.__getitem__)
        result = torch.full((len(questions), len(PairVerdict)), torch.nan, dtype=torch.float64)
        for start in range(0, len(fitting), self.batch_size):
            chosen = fitting[start : start + self.batch_size]
            prompts = [tokens[i][0] for i in chosen for _ in PairVerdict]
            ends = [end for i in chosen for end in tokens[i][1]]
            likelihood = completion_likelihood(self.model, prompts, ends, padding_id(self.tokenizer, self.model))
            logs = likelihood.tokens.sum(dim=1).view(-1, len(PairVerdict)).double().cpu()
            result[chosen] = merge_ties(logs, rounding(logs)).softmax(dim=1)
        return result

    def _judged(self, orders: Sequence[OrderedPair], shown: Tensor) -> JudgedPair:
        """Judge a pair from the probabilities of its orders, (orders, 3), with Text 1 first."""
        about_a = [row.flip(0) if order.swapped else row for order, row in zip(orders, shown, strict=True)]
        mean = tuple(torch.stack(about_a).mean(dim=0).tolist())
        rows = shown.tolist()
        combined = combine(orders, [self._verdict(row) for row in rows], list(map(_reply, rows)))
        return replace(combined, probabilities=mean)

    def _verdict(self, probabilities: Sequence[float]) -> PairVerdict | None:
        first, _, second = probabilities
        if first != first:
            return None
        close = first == second or abs(first - second) < self.tie_margin
        likeliest = max((1, 0, 2), key=probabilities.__getitem__)  # the tie, if equal
        return PairVerdict.TIE if close else [*PairVerdict][likeliest]

    def _tokens(self, question: OrderedPair) -> tuple[list[int], list[list[int]]]:
        """Return the question with the common beginning of its three answers, and the rest of each answer."""
        content = self.template.render(context_text(question.pair.prompt), *question.texts)
        is_chat, text = bool(self.tokenizer.chat_template), f"{mark_tokens(content, self._turn.frame)}\n"
        if is_chat:
            messages = [{"role": "user", "content": content}]
            refusal = f"judge {self.name}: its chat template rejects the question"
            text = prompt_text(self.tokenizer, messages, self._turn, refusal) + self._turn.gap
        text += end_of_thoughts(text.rpartition(content[-_TAIL:])[2])
        answers = token_ids(self.tokenizer, [(text + verdict, not is_chat) for verdict in PairVerdict])
        differs = [len(set(tokens)) > 1 for tokens in zip(*answers, strict=False)]
        shared = differs.index(True) if True in differs else len(differs)
        return answers[0][:shared], [ids[shared:] for ids in answers]


def _reply(probabilities: Sequence[float]) -> str:
    """Format the three probabilities as a reply; empty if the question was too long."""
    if probabilities[0] != probabilities[0]:
        return ""
    return ", ".join(f"{verdict}: {100 * p:.1f} %" for verdict, p in zip(PairVerdict, probabilities, strict=True))
