"""The load-balancing loss against transformers' own, for a whole step and however it is cut."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from grao import GRAOConfig, GRAOTrainer, InputError, RolloutConfig, TrainingConfig
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine
from grao.engine.routers import Routers
from grao.engine.select import engine_for
from grao.methods.grao import GRAO
from grao.records.run import read_metrics
from grao.training.accumulate import UpdateLoss, accumulate_gradient
from grao.training.experience import Update
from tiny import LETTERS, batch_of, gradients, letter_tokenizer, relative_gap, tiny_model

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]
ANSWERS = [[[20, 21], [22], [23, 24, 25]], [[26, 27, 28], [29, 30]], [[31], [32, 33]]]
WEIGHT = 0.3


def step(weights: list[float]) -> Update:
    """Seven answers to three prompts, those with weight 0 left out."""
    sequences = [(group, answer) for group, answers in enumerate(ANSWERS) for answer in answers]
    kept = [(group, answer, weight) for (group, answer), weight in zip(sequences, weights, strict=True) if weight]
    prompts = [PROMPTS[group] for group, _, _ in kept]
    batch = batch_of(
        prompts,
        [answer for _, answer, _ in kept],
        [group for group, _, _ in kept],
        [weight for _, _, weight in kept],
    )
    return Update(batch, positions=[], prompts=3, experience=None)


def expected_loss(model, update: Update) -> torch.Tensor:
    """transformers' loss over each prompt once and each answer once: naively, sequence by sequence."""
    config, layers = model.config, [[] for _ in range(model.config.num_hidden_layers)]
    batch, seen = update.batch, set()
    for owner, answer in zip(batch.owners, batch.answers, strict=True):
        prompt, group = owner.item.prompt_ids, owner.number
        states = model.model(torch.tensor([[*prompt, *answer.ids]]), output_router_logits=True)
        for layer, logits in zip(layers, states.router_logits, strict=True):
            layer.append(logits[len(prompt) if group in seen else 0 :])
        seen.add(group)
    gates = tuple(torch.cat(layer) for layer in layers)
    return load_balancing_loss_func(gates, gates[0].shape[-1], config.num_experts_per_tok)


@pytest.mark.parametrize("engine", [PackedEngine(), PaddedEngine()])
@pytest.mark.parametrize("budget", [8, 14, 10_000])
@pytest.mark.parametrize("weights", [[1.0, -0.5, 0.3, 2.0, 1.0, -1.0, 0.7], [0.0, -0.5, 0.3, 0.0, 0.0, -1.0, 0.7]])
def test_it_is_the_loss_of_all_unique_tokens_of_the_step(engine, budget: int, weights: list[float]):
    model = tiny_model("moe")
    engine_for(model, 0)
    update, accelerator = step(weights), Accelerator(cpu=True)
    plain = accumulate_gradient(model, update, accelerator, engine, budget)
    without = gradients(model)
    model.zero_grad()
    expected = expected_loss(model, update)
    (WEIGHT * expected).backward()
    by_balance = gradients(model)
    model.zero_grad()

    routers = Routers.of(model)
    seen = accumulate_gradient(
        model, update, accelerator, engine, budget, UpdateLoss(routers=routers, router_loss=WEIGHT)
    )
    assert seen.balance is not None
    assert seen.balance.item() == pytest.approx(expected.item(), rel=1e-5)
    assert seen.loss.item() == pytest.approx(plain.loss.item() + WEIGHT * expected.item(), rel=1e-5)
    whole = {name: without[name] + by_balance[name] for name in without}
    assert relative_gap(gradients(model), whole) < 1e-5


SHAPE = {
    "vocab_size": len(LETTERS) + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def test_other_mixtures_have_it_and_models_without_one_are_refused():
    mixtral = MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))
    assert Routers.of(mixtral).top_k == 2
    assert len(Routers.of(mixtral).modules) == 2
    deepseek = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **SHAPE | {"num_key_value_heads": 4}, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
            n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=None,
            qk_rope_head_dim=8, v_head_dim=8, qk_nope_head_dim=8,
        )
    )  # fmt: skip
    for model in (deepseek, tiny_model()):
        with pytest.raises(InputError, match=r"training\.router_loss: \w+ has no load-balancing loss"):
            Routers.of(model)


def test_a_model_that_asks_for_its_own_loss_still_takes_the_packed_way():
    model = tiny_model("moe")
    model.config.output_router_logits = True
    assert isinstance(engine_for(model, 0), PackedEngine)


@pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")
def test_training_with_it_evens_out_the_load(tmp_path: Path):
    def balances(weight: float) -> list[float]:
        folder = tmp_path / str(weight)
        model = tiny_model("moe")
        for layer in model.model.layers:  # a router that sends everything to the same experts
            layer.mlp.gate.weight.data[0] += 0.5
        training = TrainingConfig(
            steps=12, prompts_per_step=3, learning_rate=3e-3, router_loss=weight, trainer={"use_cpu": True}
        )
        method = GRAO(sign="signed")
        config = GRAOConfig(
            folder, rollout=RolloutConfig(group_size=4, max_new_tokens=8), method=method, training=training
        )
        rows = [{"prompt": f"say {word}", "reference": word} for word in ("one", "two", "three")]
        reward = lambda completions, **_: [text.count("a") for text in completions]  # noqa: E731
        GRAOTrainer(model, reward, config, rows, processing_class=letter_tokenizer()).train()
        return [metrics["router_loss"] for metrics in read_metrics(folder)]

    slack, strict = balances(1e-9), balances(1.0)
    assert strict[-1] < slack[-1] - 0.02
    assert strict[-1] < strict[0]
