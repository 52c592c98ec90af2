"""A judge without a server: a causal language model here, asked for the probabilities of the three verdicts.

Nothing is sampled. Each verdict is written behind the question and their probabilities, normalised to one, are read in
a batched forward. What the three have in common, up to the first token that tells them apart, counts for none of them,
so it does not matter how a tokenizer joins the verdict to the question.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.errors import InputError
from grao.models import completion_likelihood
from grao.models.rows import local_device
from grao.rewards.judge.comparison import Comparison, JudgeTally, Pair
from grao.rewards.judge.orders import Orders, Shown, combine, orders_of
from grao.rewards.judge.templates import Template, context_text
from grao.rewards.judge.verdicts import Verdict

_ANY = Pair("What is the capital of France?", "It is Paris.", "I do not know.")


class LocalJudge:
    """Judges with a model in this process.

    The verdict is the likeliest of the three, or a tie where better and worse are closer than `tie_margin`. A question
    that is longer than the model's positions has none.

    Args:
        model: a causal language model; it moves to this process's GPU if there is one.
        tokenizer: its; the question goes through its chat template if it has one.
        template: the wording.
        orders: `both`, or `one` that follows from the seed.
        seed: of that order.
        tie_margin: difference of two probabilities.
        batch_size: questions that are forwarded at once.

    Raises:
        InputError: if the tokenizer cannot write the verdicts.
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
        self._tally = JudgeTally()
        if not all(self._tokens(Shown(_ANY, turned=False))[1]):
            raise InputError(
                f"judge {self.name}: its tokenizer cannot tell the three verdicts apart; choose another model"
            )

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.model.config._name_or_path).rstrip("/").rpartition("/")[2] or "judge"

    @property
    def tally(self) -> JudgeTally:
        """Of the last `compare`."""
        return self._tally

    def compare(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """See `PairwiseJudge.compare`; with probabilities."""
        shown = [orders_of(pair, self.orders, self.seed) for pair in pairs]
        found = self.probabilities([one for orders in shown for one in orders])
        self._tally = JudgeTally(requests=len(found), unreadable=int(found.isnan().any(dim=1).sum()))
        each = iter(found)
        return [self._comparison(orders, torch.stack([next(each) for _ in orders])) for orders in shown]

    def check(self) -> None:
        """Nothing to be found that loading did not."""

    @torch.no_grad()
    def probabilities(self, questions: Sequence[Shown]) -> Tensor:
        """(N, 3) float64: Text 1 is better, tie, Text 2 is better. NaN where the question is too long."""
        tokens = [self._tokens(question) for question in questions]
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        lengths = [len(shared) + max(map(len, ends)) for shared, ends in tokens]
        fitting = [i for i, length in enumerate(lengths) if not positions or length <= positions]
        fitting.sort(key=lengths.__getitem__)  # rows of one length want no padding
        found = torch.full((len(questions), len(Verdict)), torch.nan, dtype=torch.float64)
        for start in range(0, len(fitting), self.batch_size):
            chosen = fitting[start : start + self.batch_size]
            seen = completion_likelihood(
                self.model,
                prompts=[tokens[i][0] for i in chosen for _ in Verdict],
                completions=[end for i in chosen for end in tokens[i][1]],
                pad_id=int(self.tokenizer.pad_token_id or 0),
            )
            found[chosen] = seen.tokens.sum(dim=1).view(-1, len(Verdict)).double().softmax(dim=1).cpu()
        return found

    def _comparison(self, orders: Sequence[Shown], found: Tensor) -> Comparison:
        """From (orders, 3) probabilities as shown."""
        about_a = torch.stack([row.flip(0) if one.turned else row for one, row in zip(orders, found, strict=True)])
        better, tie, worse = about_a.mean(dim=0).tolist()
        return combine(orders, [self._verdict(row) for row in found.tolist()], (better, tie, worse))

    def _verdict(self, probabilities: Sequence[float]) -> Verdict | None:
        first, _, second = probabilities
        if first != first:
            return None
        close = abs(first - second) < self.tie_margin
        return Verdict.TIE if close else [*Verdict][max(range(3), key=probabilities.__getitem__)]

    def _tokens(self, question: Shown) -> tuple[list[int], list[list[int]]]:
        """The question with what its three answers begin with, and the rest of each answer."""
        content = self.template.render(context_text(question.pair.prompt), *question.texts)
        asked, chat = f"{content}\n", bool(self.tokenizer.chat_template)
        if chat:
            messages = [{"role": "user", "content": content}]
            asked = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        texts = [asked + verdict for verdict in Verdict]
        answered: list[list[int]] = self.tokenizer(texts, add_special_tokens=not chat)["input_ids"]
        apart = [len(set(tokens)) > 1 for tokens in zip(*answered, strict=False)]
        shared = apart.index(True) if True in apart else len(apart)
        return answered[0][:shared], [ids[shared:] for ids in answered]
