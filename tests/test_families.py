"""Families of models: what transformers' `generate` samples, ours does too, and trains; or one line says why not."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from grao import GRAOTrainer, InputError
from grao.engine.loading import load_model
from grao.records.run import read_metrics
from grao.rewards.model import RewardModel
from grao.rollouts.base import Sampling
from grao.rollouts.transformers import TransformersGenerator
from test_trainer import ROWS, config, vowels
from tiny import END, LETTERS, in_order, letter_tokenizer, saved_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "vocab_size": len(LETTERS) + 3, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "eos_token_id": END, "bos_token_id": None,
}  # fmt: skip
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
FAMILIES = {
    "qwen3_next": LINEAR,
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"attention_hidden_size": 32},
    "minimax": {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
    "mvp": {
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "forced_eos_token_id": None,
    },
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "bloom": {"n_head": 4},
}
SLOWER = {
    "rwkv": "has no cache that can be copied",
    "minimax": "has no cache that can be copied",
    "mvp": "is affected by padding in front of a prompt",
}
PROMPTS = [[5, 6, 7, 9, 11], [8, 14], [9, 10, 11, 12, 13, 20, 21, 7]]


def family(kind: str, **more) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | FAMILIES.get(kind, {}) | more)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)  # some draw theirs too small to tell one token from another
    return model


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_samples_and_trains_like_transformers(kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder):
    model = family(kind)
    expected = [
        model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=8,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]  # fmt: skip
    groups = in_order(TransformersGenerator(model, [END]).generate(PROMPTS, range(3), Sampling(2, 0, 1.0, 8)))
    assert [[list(answer.ids) for answer in group] for group in groups] == [[ids] * 2 for ids in expected]
    told = [str(warning.message) for warning in recwarn if str(warning.message).startswith("model: ")]
    assert len(told) == (kind in SLOWER)
    assert all(SLOWER[kind] in line for line in told)

    rows = [{"prompt": "to be", "reference": "a sea of eels"}, {"prompt": "so", "reference": "we are"}]
    trainer = GRAOTrainer(
        model, vowels, config(tmp_path, steps=1, prompts_per_step=2), rows, processing_class=letter_tokenizer()
    )
    trainer.train()
    (line,) = read_metrics(tmp_path)
    assert line["grad_norm"] > 0
    assert (type(trainer.engine).__name__ == "EvenEngine") == (kind in ("rwkv", "mvp"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: family("bert", is_decoder=False), "cannot sample .*off the probabilities of a plain forward pass"),
        (lambda: family("roberta", is_decoder=True, type_vocab_size=1), "cannot be trained: .*different probabilities"),
        (lambda: family("electra"), "cannot sample .*off the probabilities of a plain forward pass"),
        (lambda: AutoModelForSequenceClassification.from_config(tiny_model().config), "not a decoder-only language"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(make, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=f"^model: .*{message}"):
        GRAOTrainer(make(), vowels, config(tmp_path), ROWS, processing_class=letter_tokenizer())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_attention_that_a_model_lacks(tmp_path: Path):
    family("gemma2").save_pretrained(tmp_path)
    letter_tokenizer().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"model\.attention: Gemma2ForCausalLM does not support sdpa, so eager is"):
        trainer = GRAOTrainer(str(tmp_path), vowels, config(tmp_path / "run", steps=1), ROWS)
    assert trainer.model.config._attn_implementation == "eager"
    saved_model(tmp_path / "llama")
    with pytest.raises(InputError, match=r"with model\.attention: flash_attention_2: .*installed"):
        load_model(str(tmp_path / "llama"), attention="flash_attention_2")


def grown_tokenizer(token: str, **names):
    tokenizer = letter_tokenizer()
    tokenizer.add_special_tokens(names or {"additional_special_tokens": [token]})
    return tokenizer


def test_padding_without_an_embedding_is_masked(tmp_path: Path):
    tokenizer = grown_tokenizer("<PAD>", pad_token="<PAD>")
    assert tokenizer.pad_token_id == 43
    GRAOTrainer(tiny_model(), vowels, config(tmp_path, steps=1), ROWS, processing_class=tokenizer).train()
    scorer = RewardModel(classifier(), tokenizer)
    plain = RewardModel(classifier(), letter_tokenizer())
    texts = ["a", "b and c"], [" yes", " no, not at all"]
    torch.testing.assert_close(scorer.scores(*texts), plain.scores(*texts))


def test_a_token_without_an_embedding_is_named(tmp_path: Path):
    rows = [*ROWS, {"prompt": "say <new>", "reference": "it"}]
    with pytest.raises(
        InputError,
        match=r"^the data set, row 7: the token '<new>' has the id 43, but the model's embedding has",
    ):
        GRAOTrainer(tiny_model(), vowels, config(tmp_path), rows, processing_class=grown_tokenizer("<new>"))
    with pytest.raises(InputError, match=r"^reward model: the token '<new>' has the id 43"):
        RewardModel(classifier(), grown_tokenizer("<new>")).scores(["a"], ["<new>"])


def classifier(kind: str = "llama", **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL | {"num_labels": 1} | more)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra", "mpnet", "llama"])
def test_a_reward_model_reads_the_end_of_a_long_text(kind: str):
    tokenizer = letter_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<unk>"})
    model = RewardModel(classifier(kind, max_position_embeddings=40, pad_token_id=0, type_vocab_size=2), tokenizer)
    prompt = "a long story " * 9
    with pytest.warns(
        UserWarning, match=r"reward model: texts of more than .* tokens are truncated; the end, with the answer"
    ):
        scores = model.scores([prompt, prompt, "b" * 50 + prompt], [" yes.", " no.", " yes."])
    assert scores[0] == scores[2] != scores[1]
    short = RewardModel(classifier(kind, max_position_embeddings=40, pad_token_id=0, type_vocab_size=2), tokenizer)
    tokenizer.model_max_length = 20
    short = RewardModel(short.model, tokenizer)
    assert short._longest == 20


def test_a_model_without_a_limit_takes_every_length(tmp_path: Path):
    model = family("bloom")
    made = GRAOTrainer(model, vowels, config(tmp_path, steps=1), ROWS, processing_class=letter_tokenizer())
    assert len(made.train_items.items) == len(ROWS)
    model.config.max_position_embeddings = -1
    assert len(made._encode([item.example for item in made.train_items.items], model).items) == len(ROWS)
