from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import MistralConfig, MistralForCausalLM

from grao import InputError
from grao.engine.padded import completion_likelihood
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.sampling import _UNITS, _invert, _invert_in_blocks, draw_tokens, keyed_uniforms
from grao.rollouts.transformers import TransformersGenerator
from tiny import END, in_order, tiny_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
KEYS = [draw_key(0, "step", row) for row in range(4)]


def generate(model, prompts=PROMPTS, keys=KEYS, batch_size=64, **sampling):
    return in_order(
        TransformersGenerator(model, [END], batch_size=batch_size).generate(prompts, keys, Sampling(**sampling))
    )


@pytest.mark.parametrize("kind", ["llama", "qwen3", "moe", "gpt2"])
def test_greedy_is_generate_token_for_token(kind: str):
    model = tiny_model(kind)
    groups = generate(model, samples=1, temperature=0, max_new_tokens=12)
    for prompt, (completion,) in zip(PROMPTS, groups, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=12,
            pad_token_id=0,
        )  # fmt: skip
        assert list(completion.ids) == expected[0, len(prompt) :].tolist()


def test_a_completion_ends_with_its_stop_token_or_is_truncated():
    groups = generate(tiny_model(), samples=8, temperature=1.0, max_new_tokens=20)
    completions = [completion for group in groups for completion in group]
    assert {completion.truncated for completion in completions} == {True, False}
    for completion in completions:
        assert completion.truncated == (END not in completion.ids)
        assert END not in completion.ids[:-1]
        assert len(completion.ids) == 20 or not completion.truncated


def test_any_of_several_stop_tokens_ends_a_completion():
    stops = set(range(1, 20))
    generator = TransformersGenerator(tiny_model(), stops)
    (group,) = in_order(generator.generate([[5]], [1], Sampling(32, 1.0, 1.0, 30)))
    assert len({completion.ids[-1] for completion in group}) > 3
    assert all(not stops & set(completion.ids[:-1]) for completion in group)


def test_samples_do_not_depend_on_company_order_or_batch_size():
    model = tiny_model()
    together = generate(model, samples=6, temperature=1.0, max_new_tokens=15)
    small = generate(model, samples=6, temperature=1.0, max_new_tokens=15, batch_size=6)
    backwards = generate(model, PROMPTS[::-1], KEYS[::-1], samples=6, temperature=1.0, max_new_tokens=15)
    assert together == small == backwards[::-1]
    fewer = generate(model, samples=2, temperature=1.0, max_new_tokens=15)
    assert [group[:2] for group in together] == fewer


def test_another_key_draws_other_samples():
    model = tiny_model()
    one = generate(model, [[5]], [1], samples=4, temperature=1.0, max_new_tokens=15)
    other = generate(model, [[5]], [2], samples=4, temperature=1.0, max_new_tokens=15)
    assert one != other
    assert len({completion.ids for completion in one[0]}) > 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7)])
def test_tokens_have_the_distribution_that_generate_samples_from(temperature: float, top_p: float):
    model = tiny_model()
    logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].detach()
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        keep = order[(ranked.cumsum(0) - ranked) < top_p]
        kept = torch.zeros_like(probabilities)
        kept[keep] = probabilities[keep]
        probabilities = kept / kept.sum()
    groups = generate(
        model, [[5, 6]], [3], batch_size=5000, samples=5000, temperature=temperature, top_p=top_p, max_new_tokens=1
    )
    counts = Counter(completion.ids[0] for completion in groups[0])
    assert all(probabilities[token] > 0 for token in counts)
    likely = (probabilities * 5000 >= 5).nonzero().squeeze(1).tolist()
    seen = [counts[token] for token in likely] + [5000 - sum(counts[token] for token in likely)]
    expected = [probabilities[token].item() * 5000 for token in likely]
    expected.append(5000 - sum(expected))
    pairs = [(s, e) for s, e in zip(seen, expected, strict=True) if e > 1e-6]
    assert chisquare(*map(list, zip(*pairs, strict=True))).pvalue > 1e-3


def test_inversion_by_hand():
    logits = torch.tensor([[0.5, 0.2, 0.3]]).log().repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.999999], dtype=torch.float64)
    assert draw_tokens(logits, uniforms, 1.0, 1.0).tolist() == [0, 0, 1, 2]
    # top_p 0.6 keeps tokens 0 and 2, with 5/8 and 3/8
    assert draw_tokens(logits, torch.tensor([0.6, 0.63, 0.0, 0.99]).double(), 1.0, 0.6).tolist() == [0, 2, 0, 2]
    assert draw_tokens(logits, uniforms, 0, 1.0).tolist() == [0] * 4


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(2, 1)
    edge = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw_tokens(logits, edge, 1.0, 1.0).tolist() == [1, 3]


@pytest.mark.parametrize("size", [1, 5, 128, 129, 300])
def test_blocks_are_inverted_exactly(size: int):
    """With N units of probability and one uniform number for each, a token of n units is drawn exactly n times."""
    torch.manual_seed(size)
    units = torch.randint(0, 4, (size,)).float()
    units[size // 2] = 7  # at least one
    total = int(units.sum())
    uniforms = (torch.arange(total, dtype=torch.float64) + 0.5) / total
    tokens = _invert_in_blocks((units / _UNITS).expand(total, -1), uniforms)
    assert torch.equal(torch.bincount(tokens, minlength=size), units.long())
    assert torch.equal(tokens, tokens.sort().values)
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    possible = units.nonzero().squeeze(1)
    assert _invert_in_blocks(units.expand(2, -1), edges).tolist() == [possible[0], possible[-1]]


def test_blocks_draw_what_one_sum_draws_whatever_shares_the_batch():
    torch.manual_seed(0)
    weights = torch.softmax(4 * torch.randn(400, 1000), dim=-1)
    weights[:, ::3] = 0
    uniforms = torch.rand(400, dtype=torch.float64)
    together = _invert_in_blocks(weights, uniforms)
    assert torch.equal(together, _invert(weights, uniforms))
    alone = [_invert_in_blocks(weights[row : row + 1], uniforms[row : row + 1]).item() for row in range(400)]
    assert together.tolist() == alone
    assert (weights.gather(1, together[:, None]) > 0).all()


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_by_blocks_tokens_have_their_probabilities(top_p: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.rollouts.sampling._invert", _invert_in_blocks)  # as on a GPU
    logits, count = 2 * torch.randn(200), 20_000
    probabilities = torch.softmax(logits.double(), dim=-1)
    ranked, order = probabilities.sort(descending=True)
    probabilities[order[ranked.cumsum(0) - ranked >= top_p]] = 0
    expected = count * probabilities / probabilities.sum()
    tokens = draw_tokens(logits.expand(count, -1), torch.rand(count, dtype=torch.float64), 1.0, top_p)
    seen = torch.bincount(tokens, minlength=200)
    assert not seen[probabilities == 0].any()
    likely = expected >= 5
    pairs = [torch.cat([values[likely], values[~likely].sum()[None]]) for values in (seen.double(), expected)]
    assert chisquare(pairs[0][pairs[1] > 1e-9], pairs[1][pairs[1] > 1e-9]).pvalue > 1e-3


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_by_blocks_a_token_is_always_one_of_the_vocabulary(number: float):
    weights = torch.softmax(torch.tensor([[0.0, 1.0, number], [number] * 3]), dim=-1)
    tokens = _invert_in_blocks(weights, torch.tensor([0.99, 0.99], dtype=torch.float64))
    assert ((tokens >= 0) & (tokens < 3)).all()


def test_uniforms_are_uniform_and_keyed():
    sampling = Sampling(samples=40, max_new_tokens=500)
    uniforms = keyed_uniforms([1, 2], sampling)
    assert uniforms.shape == (80, 500)
    counts, _ = torch.histogram(uniforms, 20, range=(0.0, 1.0))
    assert chisquare(counts.tolist()).pvalue > 1e-3
    assert len({tuple(row[:5].tolist()) for row in uniforms}) == 80
    torch.testing.assert_close(keyed_uniforms([2], sampling), uniforms[40:])


def test_the_model_keeps_its_mode():
    model = tiny_model().train()
    generate(model, samples=2, max_new_tokens=3)
    assert model.training


def test_two_tokens_in_a_row_have_their_joint_distribution():
    model, count = tiny_model(), 20_000
    with torch.no_grad():
        first = torch.softmax(model(torch.tensor([[5, 6]])).logits[0, -1].double(), dim=-1)
        rows = torch.tensor([[5, 6, token] for token in range(len(first))])
        second = torch.softmax(model(rows).logits[:, -1].double(), dim=-1)
    joint = first[:, None] * second
    joint[END] = torch.eye(len(first), dtype=torch.float64)[0] * first[END]  # nothing follows the end
    (group,) = generate(model, [[5, 6]], [3], batch_size=count, samples=count, temperature=1.0, max_new_tokens=2)
    seen = Counter((completion.ids[0], (*completion.ids, 0)[1]) for completion in group)
    observed = torch.zeros_like(joint)
    for (one, other), times in seen.items():
        observed[one, other] = times
    likely = joint * count >= 5
    expected = torch.cat([joint[likely], joint[~likely].sum()[None]]) * count
    found = torch.cat([observed[likely], observed[~likely].sum()[None]])
    assert likely.sum() > 100
    assert chisquare(found.numpy(), expected.numpy()).pvalue > 0.001


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_cache_that_has_to_grow_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(kind)
    whole = generate(model, samples=5, temperature=1.0, max_new_tokens=40)
    monkeypatch.setattr("grao.rollouts.decoding._ROOM", 3)
    assert generate(model, samples=5, temperature=1.0, max_new_tokens=40) == whole


def test_a_cache_with_a_window_keeps_only_that():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        vocab_size=43, num_key_value_heads=2, head_dim=8, sliding_window=6, initializer_range=0.2, **shape
    )
    model = MistralForCausalLM(config).eval()
    (group,) = generate(model, [[5, 6, 7, 8, 9]], samples=3, temperature=0, max_new_tokens=30)
    expected = model.generate(
        torch.tensor([[5, 6, 7, 8, 9]]), do_sample=False, max_new_tokens=30, eos_token_id=END, pad_token_id=0
    )[0, 5:].tolist()
    assert [list(completion.ids) for completion in group] == [expected] * 3


def test_a_group_is_yielded_before_the_next_ones_are_sampled():
    model, forwards = tiny_model(), []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    generator = TransformersGenerator(model, [END], batch_size=8)
    indices, spent = [], []
    for index, group in generator.generate(PROMPTS, KEYS, Sampling(4, 1.0, 1.0, 10)):
        indices.append(index)
        spent.append(len(forwards))
        assert len(group) == 4
    assert indices == [2, 0, 3, 1]  # the longest prompts first, two at a time
    assert spent[0] == spent[1] < spent[2] == spent[3]


def test_sampled_tokens_have_their_log_probability_at_temperature_1():
    model = tiny_model()
    groups = generate(model, samples=4, temperature=0.7, top_p=0.9, max_new_tokens=12)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for answer in group:
            assert len(answer.logps) == len(answer.ids)
            (tokens,) = completion_likelihood(model, [prompt], [answer.ids]).tokens
            torch.testing.assert_close(torch.tensor(answer.logps), tokens.detach(), atol=1e-5, rtol=1e-5)


def test_when_memory_runs_out_half_as_many_are_sampled_at_once():
    model = tiny_model()
    expected = generate(model, samples=4, temperature=1.0, max_new_tokens=10)

    def no_room(module, inputs, keywords):
        if len(keywords["input_ids"]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(no_room, with_kwargs=True)
    with pytest.warns(UserWarning, match=r"out of memory: rollout\.batch_size is halved to 8 from here on"):
        assert generate(model, samples=4, temperature=1.0, max_new_tokens=10, batch_size=16) == expected
    with pytest.warns(UserWarning, match="is halved to 16"), pytest.raises(InputError, match=r"rollout\.batch_size 16"):
        generate(model, samples=16, temperature=1.0, max_new_tokens=10, batch_size=32)
    together = TransformersGenerator(model, [END], batch_size=32, alone=False)
    with pytest.raises(InputError, match="out of memory"):
        in_order(together.generate(PROMPTS, KEYS, Sampling(4, 1.0, 1.0, 10)))
