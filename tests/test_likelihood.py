import pytest
import torch

from grao.engine.loading import likeliest_stop, stop_token_ids
from grao.engine.padded import completion_likelihood
from tiny import END, letter_tokenizer, tiny_model


@pytest.mark.parametrize("kind", ["llama", "qwen3", "moe", "gpt2"])
def test_padding_and_company_change_nothing(kind: str):
    model = tiny_model(kind)
    prompts, answers = [[5], [6, 7, 8, 9], [10, 11]], [[12, 13, 14, END], [15], [16, 17]]
    together = completion_likelihood(model, prompts, answers)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = completion_likelihood(model, [prompt], [answer])
        torch.testing.assert_close(together.mean[row], alone.mean[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.entropy[row], alone.entropy[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.tokens[row, : len(answer)], alone.tokens[0], atol=1e-5, rtol=1e-5)
        assert together.tokens[row, len(answer) :].abs().sum() == 0
        assert together.mask[row].tolist() == [place < len(answer) for place in range(4)]


def test_it_is_the_mean_over_tokens_of_the_log_softmax():
    model = tiny_model()
    logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0]
    logps = torch.log_softmax(logits, dim=-1)
    found = completion_likelihood(model, [[5, 6]], [[7, 8]])
    torch.testing.assert_close(found.mean[0], (logps[1, 7] + logps[2, 8]) / 2)
    torch.testing.assert_close(found.entropy[0], -(logps.exp() * logps).sum(-1)[1:3].mean())


def test_the_temperature_divides_the_logits():
    model = tiny_model()
    logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, 0]
    found = completion_likelihood(model, [[5]], [[6]], temperature=0.5)
    torch.testing.assert_close(found.mean[0], torch.log_softmax(logits / 0.5, dim=-1)[6])


def test_the_likeliest_stop_is_the_one_the_model_uses():
    model = tiny_model()
    with torch.no_grad():  # token 2 always far above token 1
        model.lm_head.weight[1] = 0.0
        model.lm_head.weight[2] = 0.0
        model.model.norm.weight.abs_()
    hidden = model.model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0, -1].detach()
    with torch.no_grad():
        model.lm_head.weight[2] = hidden
    assert likeliest_stop(model, (1, 2), [[5, 6]], [[7]]) == 2
    assert likeliest_stop(model, (1,), [[5, 6]], [[7]]) == 1


def test_stop_tokens_come_from_the_generation_config_first():
    model, tokenizer = tiny_model(), letter_tokenizer()
    model.generation_config.eos_token_id = [7, END]
    assert stop_token_ids(model, tokenizer) == (7, END)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = 9
    assert stop_token_ids(model, tokenizer) == (9,)
    model.config.eos_token_id = None
    assert stop_token_ids(model, tokenizer) == (END,)
