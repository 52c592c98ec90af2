"""Sampling in slots: token for token the plain loop, whatever shares the batch, and as a graph would replay it."""

from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from grao.errors import BrokenNumbersError, InputError
from grao.rollouts.base import Sampling, draw_key, make_generator
from grao.rollouts.captured import CapturedGenerator, bucket
from grao.rollouts.graphs import Graphs
from grao.rollouts.latent import Absorbed
from grao.rollouts.slots import Slots, prefill
from grao.rollouts.transformers import TransformersGenerator
from test_engines import FAMILIES, SHAPE
from tiny import END, in_order, tiny_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
KEYS = [draw_key(0, "step", row) for row in range(4)]


def family(name: str, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPE | FAMILIES[name] | {"pad_token_id": 0} | more)
    return AutoModelForCausalLM.from_config(config).eval()


def drawn(generator, prompts=PROMPTS, keys=KEYS, **sampling):
    return in_order(generator.generate(prompts, keys, Sampling(**{"temperature": 1.0} | sampling)))


def check_same(generator: CapturedGenerator, **sampling) -> None:
    """What it draws, and with which probabilities, is what a fresh plain loop does."""
    assert not generator.remark
    plain = drawn(TransformersGenerator(generator.model, [END]), **sampling)
    found = drawn(generator, **sampling)
    assert [[(answer.ids, answer.truncated) for answer in group] for group in found] == [
        [(answer.ids, answer.truncated) for answer in group] for group in plain
    ]
    for one, other in zip(chain(*plain), chain(*found), strict=True):
        torch.testing.assert_close(torch.tensor(one.logps), torch.tensor(other.logps), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_usual_families(name: str):
    check_same(CapturedGenerator(family(name), [END], batch_size=8), samples=3, max_new_tokens=16)


@pytest.mark.parametrize(("kind", "batch_size"), [("llama", 1), ("llama", 3), ("gpt2", 3), ("gpt2", 64)])
def test_slots_fewer_than_samples_and_more(kind: str, batch_size: int):
    samples, longest = (2, 12) if batch_size == 1 else (4, 20)
    check_same(
        CapturedGenerator(tiny_model(kind), [END], batch_size=batch_size), samples=samples, max_new_tokens=longest
    )


@pytest.mark.parametrize(
    "sampling",
    [
        {"samples": 1},
        {"samples": 16},
        {"samples": 3, "temperature": 0},
        {"samples": 3, "temperature": 0.6, "top_p": 0.8},
    ],
)
def test_groups_of_any_size_and_other_draws(sampling: dict):
    generator = CapturedGenerator(tiny_model(), [END], batch_size=16)
    check_same(generator, max_new_tokens=20, **sampling)
    check_same(generator, max_new_tokens=7, **sampling)


def test_one_engine_for_rollouts_of_all_sizes():
    generator = CapturedGenerator(tiny_model(), [END], batch_size=8)
    for samples, longest in ((2, 10), (4, 24), (1, 60), (4, 3)):
        check_same(generator, samples=samples, max_new_tokens=longest)


def test_the_batch_stays_full_while_samples_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("grao.rollouts.captured.STEPS_PER_CHECK", 1)
    model = tiny_model()
    generator, busy = CapturedGenerator(model, [END], batch_size=8), []
    lengths = [len(answer.ids) for group in drawn(generator, samples=12, max_new_tokens=30) for answer in group]
    step = Slots.step

    def counted(slots, *arguments):
        busy.append(int(slots.alive.sum()))
        step(slots, *arguments)

    monkeypatch.setattr(Slots, "step", counted)
    drawn(generator, samples=12, max_new_tokens=30)
    assert sum(busy) == sum(lengths)
    assert busy[-1] < 8 == busy[0]
    assert all(rows == 8 for rows in busy[: (sum(lengths) - 8 * 30) // 8])


def test_a_prompt_is_read_once():
    model, read = tiny_model(), []
    generator = CapturedGenerator(model, [END], batch_size=4)

    def note(module, inputs, keywords):
        if keywords["input_ids"].shape[1] > 1:
            read.extend(keywords["input_ids"].tolist())

    model.register_forward_pre_hook(note, with_kwargs=True)
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13], [3, 4, 14, 15]]
    drawn(generator, prompts, KEYS[:3], samples=9, max_new_tokens=10)
    assert sorted(row[:2] for row in read if row != [0, 0]) == [[3, 4], [5, 6], [9, 10]]


def test_after_an_update_the_new_weights_sample():
    model = tiny_model()
    generator = CapturedGenerator(model, [END], batch_size=8)
    before = drawn(generator, samples=4, max_new_tokens=15)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    generator.sync(model)
    check_same(generator, samples=4, max_new_tokens=15)
    assert drawn(generator, samples=4, max_new_tokens=15) != before


def test_when_memory_runs_out_in_the_middle_everything_is_drawn_the_same():
    model, prompts, keys = tiny_model(), [*PROMPTS, [16, 17, 18, 19]], [*KEYS, 5]
    generator, steps = CapturedGenerator(model, [END], batch_size=16), []
    expected = drawn(generator, prompts, keys, samples=8, max_new_tokens=30)

    def no_room(module, inputs, keywords):
        steps.append(len(keywords["input_ids"]))
        if len(steps) > 25 and steps[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(no_room, with_kwargs=True)
    with pytest.warns(UserWarning, match=r"out of memory: rollout\.batch_size is halved to 8 from here on"):
        assert drawn(generator, prompts, keys, samples=8, max_new_tokens=30) == expected
    few = CapturedGenerator(model, [END], batch_size=64)  # of which only 12 are in use
    with pytest.warns(UserWarning, match=r"rollout\.batch_size is halved to 32 from here on"):
        assert drawn(few, prompts[:4], keys[:4], samples=3, max_new_tokens=30) == [group[:3] for group in expected[:4]]
    among_others = CapturedGenerator(model, [END], batch_size=16, alone=False)
    with pytest.raises(InputError, match="out of memory"):
        drawn(among_others, prompts, keys, samples=8, max_new_tokens=30)


def test_broken_numbers_are_said_and_leave_nothing_behind():
    model = tiny_model()
    generator = CapturedGenerator(model, [END], batch_size=8)
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = torch.nan
    with pytest.raises(BrokenNumbersError, match="logits are not finite"):
        drawn(generator, samples=4, max_new_tokens=10)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = 0.1
    check_same(generator, samples=4, max_new_tokens=10)
    with torch.no_grad():
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(kept)))
        model.lm_head.bias[5] = -torch.inf  # an impossible token is nothing broken
    assert all(5 not in answer.ids for group in drawn(generator, samples=4, max_new_tokens=10) for answer in group)


def test_what_does_not_fit_takes_the_plain_loop():
    unheard = tiny_model()
    unheard.config.sliding_window = 50  # Llama takes no notice of it, and a short text would not show it
    with pytest.warns(UserWarning, match="LlamaForCausalLM uses the plain sampling loop.*: .* nats off"):
        generator = CapturedGenerator(unheard, [END])
    assert unheard.config.sliding_window == 50
    chunked = tiny_model()
    chunked.config.attention_chunk_size = 8192
    with pytest.warns(UserWarning, match="it has layers of the types chunked_attention, full_attention"):
        CapturedGenerator(chunked, [END])
    expected = drawn(TransformersGenerator(unheard, [END]), samples=2, max_new_tokens=6)
    assert drawn(generator, samples=2, max_new_tokens=6) == expected
    config = AutoConfig.for_model("lfm2", **SHAPE, layer_types=["conv", "full_attention"], pad_token_id=0)
    with pytest.warns(UserWarning, match="Lfm2ForCausalLM uses the plain sampling loop, which is slower: its"):
        generator = CapturedGenerator(AutoModelForCausalLM.from_config(config).eval(), [END])
    assert len(drawn(generator, samples=2, max_new_tokens=4)) == 4


def test_which_engine_is_meant():
    model = tiny_model()
    made = [make_generator(name, model, [END], 0, 8, True) for name in ("auto", "captured", "transformers")]
    assert [type(generator) for generator in made] == [TransformersGenerator, CapturedGenerator, TransformersGenerator]
    with pytest.raises(InputError, match="unknown engine 'vlm'; choose auto, "):
        make_generator("vlm", model, [END], 0, 8, True)


def test_buckets():
    assert [bucket(length) for length in (1, 16, 17, 64, 65, 128, 129, 513)] == [16, 16, 32, 64, 80, 128, 160, 640]
    assert all(length <= bucket(length) <= max(16, 1.25 * length + 16) for length in range(1, 5000))


class Recorder(TorchDispatchMode):
    """Writes down what is computed, as a captured graph does, and refuses what a graph cannot hold."""

    WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.split("::")[1] not in self.WAITS, func
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Does the same with the same tensors."""
        for func, args, kwargs, kept in self.calls:
            aliases = [output.alias_info for output in func._schema.returns]
            if any(alias and not alias.is_write for alias in aliases):
                continue  # a view of what is there
            for old, new in zip(tree_leaves(kept), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def recorded(graphs: Graphs, key, step, alive: torch.Tensor):
    """In place of `Graphs.step` on a GPU."""
    if key not in graphs._steps:
        held, recorder = alive.clone(), Recorder()
        alive.zero_()
        step()
        with recorder:
            step()
        alive.copy_(held)
        graphs._steps[key] = recorder.replay
    return graphs._steps[key]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "deepseek_v3", "qwen3_moe", "adapter"])
def test_a_recorded_step_does_the_same_when_it_is_replayed(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Graphs, "step", recorded)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_model(), lora).eval() if name == "adapter" else family(name)
    generator = CapturedGenerator(model, [END], batch_size=8)
    check_same(generator, samples=3, max_new_tokens=12)
    graphs = dict(generator._graphs._steps)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    check_same(generator, samples=3, max_new_tokens=12)
    assert graphs.items() <= generator._graphs._steps.items()  # weights that stay in place are read anew
    weights = model.get_output_embeddings()
    weights.weight = torch.nn.Parameter(weights.weight * 0.5)
    check_same(generator, samples=3, max_new_tokens=12)
    check_same(generator, samples=2, max_new_tokens=12, temperature=0.5)


def test_graphs_are_for_one_way_through_the_model():
    policy = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    graphs = Graphs()
    assert not graphs.still_valid(policy)
    assert graphs.still_valid(policy)
    with torch.no_grad():
        next(policy.parameters()).add_(1)
    assert graphs.still_valid(policy)
    with policy.disable_adapter():
        assert not graphs.still_valid(policy)
    assert not graphs.still_valid(policy)
    policy.merge_adapter()
    assert not graphs.still_valid(policy)
    policy.forward = policy.forward
    assert not graphs.still_valid(policy)
    assert graphs.still_valid(policy)
    policy.base_model.model.lm_head.weight.data = policy.base_model.model.lm_head.weight.data.clone()
    assert not graphs.still_valid(policy)


def test_a_step_that_cannot_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    def refuses(graphs, step, alive):
        raise RuntimeError("called a synchronizing CUDA operation")

    def no_room(graphs, step, alive):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    graphs, alive = Graphs(), SimpleNamespace(device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr(Graphs, "_captured", refuses)
    assert graphs.step("key", dir, alive) is dir
    assert "synchronizing" in graphs.failure
    monkeypatch.setattr(Graphs, "_captured", no_room)
    assert graphs.step("key", dir, alive) is dir
    with pytest.raises(torch.OutOfMemoryError):
        graphs.step("another", dir, alive)


def refused(graphs: Graphs, key, step, alive: torch.Tensor):
    """In place of `Graphs.step` on a GPU: whatever draws from the most likely tokens only is not captured."""
    if key[2].top_p < 1:
        graphs.failure = "it waits"
    return step


def test_what_is_not_captured_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Graphs, "step", refused)
    generator = CapturedGenerator(tiny_model(), [END], batch_size=8)
    assert not generator.remark
    with pytest.warns(UserWarning, match="sampling is slower: a step cannot be captured as a CUDA graph: it waits"):
        check_same(generator, samples=2, max_new_tokens=8, top_p=0.9)
    never = (0, 0, Sampling(top_p=0.5))
    monkeypatch.setattr(Graphs, "step", lambda graphs, key, step, alive: refused(graphs, never, step, alive))
    with pytest.warns(UserWarning, match="uses the plain sampling loop, which is slower: it waits"):
        CapturedGenerator(tiny_model(), [END], batch_size=8)


def test_slots_without_a_completion_stay_as_they_are():
    model = tiny_model()
    slots = Slots(model, prefill(model, [[5, 6]], 0), 3, 32, 8, torch.tensor([END]), 0)
    prefix = prefill(model, [[5, 6, 7]], 0)
    slots.fill([1], [5, 6, 7], (prefix, 0), torch.rand(1, 4, dtype=torch.float64))
    held = slots.alive.clone()
    slots.alive.zero_()
    before = [value.clone() for value in (slots._token, slots._position, slots._count, slots._stopped)]
    for _ in range(3):
        slots.step(3, 16, Sampling(max_new_tokens=4))
    after = [slots._token, slots._position, slots._count, slots._stopped]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not slots._logps[:, :4].any()
    slots.alive.copy_(held)
    slots.step(3, 16, Sampling(max_new_tokens=4))
    assert slots._count.tolist() == [0, 1, 0]


@pytest.mark.parametrize("more", [{}, {"q_lora_rank": 8}, {"rope_interleave": False}])
def test_latents_are_not_expanded(more: dict):
    model, expanded = family("deepseek_v3", **more), []
    generator = CapturedGenerator(model, [END], batch_size=8)
    kind = type(model.model.layers[0].self_attn)
    before, kept = kind.expand_kv, model.config._attn_implementation
    try:
        kind.expand_kv = lambda self, latent, turned: expanded.append(latent.shape[2]) or before(self, latent, turned)
        found = drawn(generator, samples=4, max_new_tokens=12)
    finally:
        kind.expand_kv = before
    assert max(expanded) == 4  # prompts only, without their last token
    assert len(expanded) <= 2 * (4 + 1)
    assert found == drawn(generator, samples=4, max_new_tokens=12)
    assert model.config._attn_implementation == kept
    assert not any({"expand_kv", "absorbed"} & vars(layer.self_attn).keys() for layer in model.model.layers)
    check_same(generator, samples=4, max_new_tokens=12)


def test_latents_with_an_adapter_on_their_projection():
    lora = LoraConfig(r=4, target_modules=["kv_b_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(family("deepseek_v3"), lora).eval()
    generator = CapturedGenerator(model, [END], batch_size=8)
    assert isinstance(generator._absorbed, Absorbed)
    check_same(generator, samples=4, max_new_tokens=12)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.mul_(-2)
    check_same(generator, samples=4, max_new_tokens=12)
