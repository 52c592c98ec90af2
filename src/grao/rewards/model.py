"""A reward model: a sequence classifier with one output, r(x), asked about the answer and the reference.

Left out: pairwise models that read two answers at once (a judge does), process rewards, several outputs.
"""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grao.models import load_tokenizer
from grao.models.conversation import conversation_ids
from grao.models.loading import load_reward_model
from grao.models.rows import forward_rows, local_device
from grao.rewards.functions import Relative, difference
from grao.rewards.reward import Prompt, RewardBatch


class RewardModel:
    """R(o, y) = r(o) - r(y), or its sign with a band of ties.

    Prompt and answer are read as `grao reward train` shows them in training (`conversation_ids`). What is longer
    than the model's positions is cut on the left, so that the answer stays.

    Args:
        model: a sequence classifier with one output; it moves to this process's GPU if there is one.
        tokenizer: its, with a padding token.
        relative: how two scores become R(o, y).
        name: for logs.
        token_budget: padded tokens that are forwarded at once (memory); changes no score.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        relative: Relative = difference,
        name: str = "model",
        token_budget: int = 16384,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(local_device())
        self.tokenizer, self._relative, self._name, self._token_budget = tokenizer, relative, name, token_budget
        text_config = model.config.get_text_config()
        text_config.pad_token_id = tokenizer.pad_token_id  # where the last token is looked for
        self._positions: int | None = getattr(text_config, "max_position_embeddings", None)

    @classmethod
    def load(cls, path: str, relative: Relative = difference, name: str = "model") -> "RewardModel":
        """The model and tokenizer of a folder, such as `model/` of `grao reward train`, or of the hub.

        Raises:
            InputError: if there is no reward model.
        """
        return cls(load_reward_model(path), load_tokenizer(path), relative, name)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return self._name

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        width = len(batch.completions[0]) + 1
        prompts = [prompt for prompt in batch.prompts for _ in range(width)]
        groups = zip(batch.completions, batch.references, strict=True)
        scores = self.scores(prompts, [answer for group, y in groups for answer in (*group, y)]).view(-1, width)
        return self._relative(scores[:, :-1], scores[:, -1:])

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Tensor:
        """r(x) of N answers to their prompts, (N,) float64.

        Raises:
            InputError: if the chat template refuses a conversation.
        """
        sequences = conversation_ids(self.tokenizer, prompts, answers)
        if self._positions:
            sequences = [ids[-self._positions :] for ids in sequences]
        pad_id = int(self.tokenizer.pad_token_id or 0)
        return forward_rows(
            self.model, sequences, pad_id, self._token_budget, lambda output, mask: output.logits.squeeze(-1)
        )
