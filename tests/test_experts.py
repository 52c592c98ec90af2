"""What is measured of a mixture of experts, against loops that look at one token and one expert at a time."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from forked import together
from grao import GRAOConfig, GRAOTrainer, RolloutConfig, TrainingConfig
from grao.engine.experts import Experts, RoutedEngine
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine
from grao.engine.select import engine_for
from grao.methods.grao import GRAO
from grao.records.run import read_metrics
from grao.reports.figures import run_figures
from grao.types import Answer, Batch, Encoded, Example, Group, Role
from tiny import LETTERS, letter_tokenizer, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*learning_rate.*hardly move")

SAMPLES = [[[20, 21], [22], [23, 24, 25]], [[26, 27, 28], [29, 30]]]
REFERENCES = [[10, 11, 12, 1], [13, 1]]
PROMPTS = [[5, 6, 7, 8], [9, 10]]
SHAPE = {
    "vocab_size": len(LETTERS) + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.2, "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}  # fmt: skip
FAMILIES = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 4},
    "olmoe": {"num_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "layer_types": ["full_attention", "full_attention"]},
    "phimoe": {"num_local_experts": 4},
    "minimax": {"num_local_experts": 4, "layer_types": ["full_attention", "full_attention"]},
    "deepseek_v3": {
        "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16,
        "q_lora_rank": None, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8,
    },
}  # fmt: skip


def step(weights: tuple[float, ...] = (1.0, -0.5, 0.3, 2.0, 1.0, 0.7, 0.4)) -> Batch:
    """Five samples and two references, those with weight 0 left out."""
    left, groups = iter(weights), []
    for number, (prompt, samples) in enumerate(zip(PROMPTS, SAMPLES, strict=True)):
        answers = [Answer(tuple(ids), weight=next(left)) for ids in samples]
        groups.append((number, prompt, answers))
    for (_, _, answers), ids in zip(groups, REFERENCES, strict=True):
        answers.append(Answer(tuple(ids), Role.REFERENCE, weight=next(left)))
    return Batch(
        tuple(
            Group(
                Encoded(Example("", "", None, {}, 0), "", tuple(prompt), "", ()),
                tuple(answer for answer in answers if answer.weight),
                number,
            )
            for number, prompt, answers in groups
        )
    )


def inputs_of_experts(model, ids: list[int]) -> list[torch.Tensor]:
    """(T, k) for each layer, the experts that its experts are told to be for each token of a text."""
    layers: list[torch.Tensor] = []
    experts = [part for part in model.modules() if type(part).__name__.endswith("Experts")]
    hooks = [part.register_forward_pre_hook(lambda _, inputs: layers.append(inputs[1])) for part in experts]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return layers


def naive_choices(model, batch: Batch) -> dict[Role, list[list[set[int]]]]:
    """Role -> for each answer token, for each layer, the experts that its inputs name."""
    found: dict[Role, list[list[set[int]]]] = {role: [] for role in Role}
    for owner, answer in zip(batch.owners, batch.answers, strict=True):
        layers = inputs_of_experts(model, [*owner.item.prompt_ids, *answer.ids])
        begin = len(owner.item.prompt_ids)
        found[answer.role] += [
            [set(layer[begin + token].tolist()) for layer in layers] for token in range(len(answer.ids))
        ]
    return found


def entropy(load: list[float]) -> float:
    return -sum(x * math.log(x) for x in load if x)


def naive_numbers(choices: dict[Role, list[list[set[int]]]], experts: int = 4) -> dict[str, float]:
    loads: dict[Role, list[list[float]]] = {}
    for role in (Role.SAMPLE, Role.REFERENCE):
        tokens = choices[role]
        layers = range(len(tokens[0]))
        counts = [[sum(e in token[layer] for token in tokens) for e in range(experts)] for layer in layers]
        loads[role] = [[count / sum(of_layer) for count in of_layer] for of_layer in counts]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    numbers = {}
    for name, role in (("samples", Role.SAMPLE), ("reference", Role.REFERENCE)):
        numbers[f"experts/balance_{name}"] = mean([entropy(load) / math.log(experts) for load in loads[role]])
        numbers[f"experts/busiest_{name}"] = mean([max(load) * experts for load in loads[role]])
    both = zip(loads[Role.SAMPLE], loads[Role.REFERENCE], strict=True)
    middle = [([(x + y) / 2 for x, y in zip(p, q, strict=True)], p, q) for p, q in both]
    numbers["experts/apart"] = mean([(entropy(m) - (entropy(p) + entropy(q)) / 2) / math.log(2) for m, p, q in middle])
    return numbers


def routed(model, engine=None) -> RoutedEngine:
    engine = engine or engine_for(model, 0)
    return RoutedEngine(engine, Experts.of(model), lambda tensor: tensor)


@pytest.mark.parametrize("engine", [PackedEngine(), PaddedEngine()])
@pytest.mark.parametrize("budget", [8, 10_000])
@pytest.mark.parametrize("weights", [(1.0, -0.5, 0.3, 2.0, 1.0, 0.7, 0.4), (0.0, -0.5, 0.3, 0.0, 1.0, 0.0, 0.4)])
def test_load_by_samples_and_references(engine, budget: int, weights):
    model = tiny_model("moe")
    engine_for(model, 0)
    batch, looking = step(weights), routed(model, engine)
    looking.begin()
    for rows in looking.plan(batch, budget):
        looking.run(model, batch.select(rows))
        with torch.no_grad():
            looking.run(model, batch.select(rows))  # a pass that teaches nothing
    stand_in = Batch((Group(batch.groups[0].item, (Answer((3,)),), number=-1),))
    looking.run(model, stand_in)
    assert looking.numbers() == pytest.approx(naive_numbers(naive_choices(model, batch)), abs=1e-6)
    looking.begin()
    assert looking.numbers() == {}


def family(kind: str):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | FAMILIES[kind])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    return model


def naive_squares(module: nn.Module) -> list[float]:
    """Of each of four experts the squared norm of its gradient, from tensors that hold all of them."""
    return [
        sum((p.grad[e] ** 2).sum().item() for p in module.parameters(recurse=False) if p.grad is not None)
        for e in range(4)
    ]


def naive_spread(layers: list[list[float]]) -> dict[str, float]:
    shares = [[square / sum(squares) for square in squares] for squares in layers]
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return {
        "gradient_top": mean([max(share) for share in shares]),
        "gradient_spread": mean([entropy(share) / math.log(4) for share in shares]),
        "gradient_none": mean([mean([x == 0 for x in share]) for share in shares]),
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_families(kind: str):
    model, batch = family(kind), step()
    looking = routed(model)
    for rows in looking.plan(batch, 10_000):
        looking.run(model, batch.select(rows)).loss.backward()
    numbers = looking.numbers()
    experts = [part for part in model.modules() if type(part).__name__.endswith("Experts")]
    assert len(experts) == (1 if kind == "deepseek_v3" else 2)
    spread = {f"experts/{name}": x for name, x in naive_spread([naive_squares(part) for part in experts]).items()}
    load = naive_numbers(naive_choices(model, batch))
    assert numbers == pytest.approx(load | spread, rel=1e-4, abs=1e-5)


class Apart(nn.Module):
    """The experts of a layer as modules of their own."""

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        self.act, each = fused.act_fn, range(len(fused.down_proj))
        self.up = nn.ModuleList(nn.Linear(32, fused.gate_up_proj.shape[1], bias=False) for _ in each)
        self.experts = nn.ModuleList(nn.ModuleList([up, nn.Linear(24, 32, bias=False)]) for up in self.up)
        del self.up
        for e in each:
            self.experts[e][0].weight.data = fused.gate_up_proj.data[e]
            self.experts[e][1].weight.data = fused.down_proj.data[e]

    def forward(self, hidden, index, weights):
        out = torch.zeros_like(hidden)
        for e, (up, down) in enumerate(self.experts):
            token, place = torch.where(index == e)
            gate, value = up(hidden[token]).chunk(2, dim=-1)
            out = out.index_add(0, token, down(self.act(gate) * value) * weights[token, place, None])
        return out


def test_experts_that_are_modules_of_their_own():
    fused, apart = tiny_model("moe"), tiny_model("moe")
    for layer in apart.model.layers:
        layer.mlp.experts = Apart(layer.mlp.experts)
    batch, numbers = step((0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)), []
    for model in (fused, apart):
        looking = routed(model, PaddedEngine())
        looking.run(model, batch.select(range(len(batch.answers)))).loss.backward()
        numbers.append(looking._experts.gradient())
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


def test_adapters_of_experts_and_of_everything_else():
    batch = step()
    adapted = get_peft_model(
        tiny_model("moe"), LoraConfig(r=2, target_modules=[], target_parameters=["gate_up_proj", "down_proj"])
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    looking = routed(adapted, PaddedEngine())
    looking.run(adapted, batch).loss.backward()
    layers = []
    for layer in range(2):
        squares = [0.0] * 4
        for name, weight in adapted.named_parameters():
            if weight.grad is not None and f"layers.{layer}." in name:
                for e in range(4):  # peft: (experts x rank, in) and (out, rank x experts)
                    own = weight.grad[2 * e : 2 * e + 2] if "lora_A" in name else weight.grad[:, e::4]
                    squares[e] += (own**2).sum().item()
        layers.append(squares)
    assert looking._experts.gradient() == pytest.approx(naive_spread(layers), rel=1e-5)

    attention = get_peft_model(tiny_model("moe"), LoraConfig(r=2, target_modules=["q_proj"]))
    looking = routed(attention, PaddedEngine())
    looking.run(attention, batch).loss.backward()
    assert looking._experts.gradient() == {}


def test_drift_is_the_share_of_choices_that_the_starting_model_made_otherwise():
    model, batch = tiny_model("moe"), step((1.0, -0.5, 0.0, 2.0, 1.0, 0.7, 0.4))
    looking = routed(model)
    with looking.initial_model(), torch.no_grad():
        looking.run(model, batch)
    before = naive_choices(model, batch)[Role.SAMPLE]
    looking.begin()
    looking.run(model, batch)
    assert looking.numbers()["experts/drift"] == 0
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight[0] += 0.5
    looking.begin()
    for rows in looking.plan(batch, 8):
        looking.run(model, batch.select(rows))
    after = naive_choices(model, batch)[Role.SAMPLE]
    other = [now - then for token in zip(after, before, strict=True) for now, then in zip(*token, strict=True)]
    assert looking.numbers()["experts/drift"] == pytest.approx(sum(map(len, other)) / (2 * len(other)))
    assert looking.numbers()["experts/drift"] > 0.05


def test_gradients_that_are_split_over_processes_are_not_gathered_to_be_measured():
    def split() -> None:
        torch.distributed.init_process_group("gloo")
        whole, parted, batch = tiny_model("moe"), tiny_model("moe"), step()
        looking = [routed(model, PaddedEngine()) for model in (whole, parted)]
        for layer in parted.model.layers:
            fully_shard(layer)
        fully_shard(parted)
        for model, engine in zip((whole, parted), looking, strict=True):
            engine.run(model, batch).loss.backward()
        assert isinstance(parted.model.layers[0].mlp.experts.down_proj.grad, DTensor)
        expected, found = (engine._experts.gradient() for engine in looking)
        assert found == pytest.approx(expected, rel=1e-5)
        torch.distributed.destroy_process_group()

    together(2, split)


def test_routers_that_cannot_be_read_are_left_alone():
    odd = tiny_model("moe")
    engine = engine_for(odd, 0)
    assert Experts.of(odd).observable_with(engine, odd)
    gate = odd.model.layers[1].mlp.gate
    forward = gate.forward
    gate.forward = lambda hidden: (None, *forward(hidden)[1:])  # no logits
    assert not Experts.of(odd).observable_with(engine, odd)
    assert Experts.of(tiny_model()) is None


ROWS = [{"prompt": f"say {word}", "reference": word} for word in ("one", "two", "three", "four")]


def trained(folder: Path, kind: str = "moe", **settings) -> list[dict[str, float]]:
    """The metrics of three steps."""
    training = TrainingConfig(steps=3, prompts_per_step=4, learning_rate=3e-2, trainer={"use_cpu": True}, **settings)
    rollout, method = RolloutConfig(group_size=4, max_new_tokens=8), GRAO(sign="signed")
    config = GRAOConfig(folder, rollout=rollout, method=method, training=training)
    reward = lambda completions, **_: [text.count("a") for text in completions]  # noqa: E731
    GRAOTrainer(tiny_model(kind), reward, config, ROWS, processing_class=letter_tokenizer()).train()
    return read_metrics(folder)


def test_a_run_logs_and_draws_it(tmp_path: Path):
    lines = trained(tmp_path / "moe", measure_kl=True, router_loss=0.01, token_budget=64)
    assert lines[0]["experts/drift"] == 0
    assert 0 < lines[-1]["experts/drift"] < 1
    for name in ("balance_samples", "apart", "gradient_top", "gradient_spread"):
        assert 0 < lines[-1][f"experts/{name}"] <= 1
    assert 1 <= lines[-1]["experts/busiest_samples"] <= 4
    sections, _ = run_figures(lines)
    assert [figure.title for figure in sections["Mixture of experts"]] == [
        "Load balance of the experts", "Expert load, samples versus references", "Routing drift",
        "Gradient of the experts",
    ]  # fmt: skip
    silent = trained(tmp_path / "silent")
    assert "experts/drift" not in silent[-1]  # nobody asks the model before training
    assert silent[0]["experts/balance_samples"] == pytest.approx(lines[0]["experts/balance_samples"])
    dense = trained(tmp_path / "dense", "llama", measure_kl=True)
    assert not any(name.startswith("experts/") for line in dense for name in line)
    sections, missing = run_figures(dense)
    assert "Mixture of experts" not in sections
    assert not any("xpert" in title for title in missing)


def test_several_processes_count_together(tmp_path: Path):
    whole = trained(tmp_path / "one", measure_kl=True)
    together(2, lambda: trained(tmp_path / "two", measure_kl=True) and None)
    for one, two in zip(whole, read_metrics(tmp_path / "two"), strict=True):
        for name in (name for name in one if name.startswith("experts/")):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name
