"""Each method's loss and gradient against TRL's trainers or a naive loop, through the whole of our engine."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from pydantic import TypeAdapter
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from grao.config.recipe import Recipe
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine
from grao.engine.select import engine_for
from grao.errors import InputError
from grao.methods import METHODS
from grao.methods.base import Before, Method
from grao.methods.dapo import DAPO
from grao.methods.dpo import DPO
from grao.methods.dr_grpo import DrGRPO
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO, sample_advantages
from grao.methods.gspo import GSPO
from grao.methods.ppo import PPO, adapted_kl, gae
from grao.methods.rloo import RLOO
from grao.methods.sft import SFT
from grao.rewards.mix import as_mix
from grao.rollouts.base import Sampling
from grao.training.accumulate import StepOutput, UpdateLoss, accumulate_gradient
from grao.training.experience import ExperienceSource, Update
from grao.training.learner import Observer, ValueHead
from grao.types import Answer, Encoded, Example, Role
from tiny import gradients, letter_tokenizer, random_groups, relative_gap, tiny_model

REWARDS = [[1.0, 0.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0], [0.5, -0.5, 2.0, 0.0]]
LIMIT = 16
"""Most tokens of a sample."""
pytestmark = pytest.mark.filterwarnings("ignore:.*fused_lm_head.*")


class Given:
    """A sampling engine that says what it is told, all at once."""

    def __init__(self, groups: list[list[list[int]]]) -> None:
        self.groups = groups

    def generate(self, prompts, keys, sampling) -> list[tuple[int, list[Answer]]]:
        by_prompt = dict(self.groups)
        said = [[Answer(tuple(ids)) for ids in by_prompt[tuple(prompt)]] for prompt in prompts]
        return list(enumerate(said))

    def sync(self, policy) -> None:
        pass


class Table:
    """A reward of known values."""

    name = "table"

    def relative(self, batch) -> torch.Tensor:
        return torch.tensor([REWARDS[int(columns["row"])] for columns in batch.columns], dtype=torch.float64)


def update_of(method: Method, seed: int = 7) -> Update:
    """Three prompts with four samples, a reference and a rejected answer each."""
    prompts, groups, references = random_groups(seed)
    _, _, rejected = random_groups(seed + 100)
    items = [
        Encoded(Example(f"{row}", "y", "n", {"row": row}, row), "", tuple(q), "y", tuple(y), tuple(n))
        for row, (q, y, n) in enumerate(zip(prompts, references, rejected, strict=True))
    ]
    generator = Given([(tuple(q), group) for q, group in zip(prompts, groups, strict=True)])
    sampling = Sampling(4, max_new_tokens=LIMIT)
    source = ExperienceSource(items, generator, as_mix(Table()), method, letter_tokenizer(), sampling, 3)
    return source.update(0)


def learn(model, method: Method, budget: int = 10_000, engine=None, frozen=None, critic=None) -> StepOutput:
    """Loss in the result, gradient in the model."""
    accelerator, update = Accelerator(cpu=True), update_of(method)
    engine = engine or engine_for(model, 0)
    start = (lambda: _opened(frozen)) if frozen is not None else None
    before = Observer(engine, accelerator, start, critic).before(model, update, method, budget)
    model.zero_grad()
    return accumulate_gradient(model, update, accelerator, engine, budget, UpdateLoss(method, critic), before)


class _opened:  # noqa: N801
    def __init__(self, model) -> None:
        self.model = model

    def __enter__(self):
        return self.model

    def __exit__(self, *error: object) -> None:
        pass


def moved(model):
    """Another policy than the frozen one, so that ratios and margins are not those of the start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def padded(rows: list[list[int]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        ids[row, place], mask[row, place] = torch.tensor(tokens), 1
    return ids, mask


def token_logps(model, prompt, answer) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return F.log_softmax(logits, dim=-1)[range(len(answer)), list(answer)]


def answers_of(update: Update) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
    batch = update.batch
    return {
        position: (list(group.item.prompt_ids), list(answer.ids))
        for position, group, answer in zip(update.positions, batch.owners, batch.answers, strict=True)
    }


def plain(trainer):
    """TRL as it computes by itself: no batches of its own, one process."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer.model.zero_grad()
    return trainer.model


OURS_AND_TRLS = {
    "grpo": (GRPO(clip=0.1, kl=0.0, updates=2), {}),
    "grpo with kl": (GRPO(clip=0.1, kl=0.3, updates=2), {}),
    "clip-higher": (GRPO(clip=0.1, clip_high=0.02, kl=0.0, updates=2), {"epsilon_high": 0.02}),
    "dr-grpo": (DrGRPO(clip=0.1, updates=2), {"loss_type": "dr_grpo"}),
    "dr-grpo with kl": (DrGRPO(clip=0.1, kl=0.3, updates=2), {"loss_type": "dr_grpo"}),
    "dapo": (DAPO(clip=0.1, clip_high=0.15, updates=2), {"loss_type": "dapo", "epsilon_high": 0.15}),
    "gspo": (
        GSPO(clip=0.01, clip_high=0.02),
        {"importance_sampling_level": "sequence", "epsilon": 0.01, "epsilon_high": 0.02},
    ),
    "gspo with kl": (GSPO(clip=0.1, clip_high=0.1, kl=0.3), {"importance_sampling_level": "sequence"}),
}


def table(policy, rows: dict) -> torch.Tensor:
    """(S, T), log-probabilities of the answers' tokens, 0 behind them."""
    with torch.no_grad():
        parts = [token_logps(policy, *row) for row in rows.values()]
    return torch.stack([F.pad(part, (0, max(map(len, parts)) - len(part))) for part in parts])


def all_samples() -> tuple[dict, torch.Tensor, dict[str, torch.Tensor]]:
    """Of the three groups: prompt and sample by position, rewards (3, 4), and TRL's padded inputs."""
    everything = update_of(GRPO(kl=1.0))  # with a KL term all samples count
    rows = answers_of(everything)
    rewards = torch.tensor([REWARDS[update_row(everything, (group, 0))] for group in range(3)]).double()
    prompt_ids, prompt_mask = padded([prompt for prompt, _ in rows.values()], left=True)
    completion_ids, completion_mask = padded([answer for _, answer in rows.values()])
    names = "prompt_ids", "prompt_mask", "completion_ids", "completion_mask"
    return rows, rewards, dict(zip(names, (prompt_ids, prompt_mask, completion_ids, completion_mask), strict=True))


def check_against(theirs: torch.Tensor, model, method: Method, frozen, old) -> None:
    """Our loss and gradient in the second of several updates, for several token budgets, are those given."""
    theirs.backward()
    expected = gradients(model)
    engine_for(frozen, 0), engine_for(old, 0)
    update, accelerator, engine = update_of(method), Accelerator(cpu=True), engine_for(model, 0)
    start = (lambda: _opened(frozen)) if method.needs.frozen else None
    for budget in (20, 10_000):
        before = Observer(engine, accelerator, start, None).before(old, update, method, budget)
        model.zero_grad()
        seen = accumulate_gradient(model, update, accelerator, engine, budget, UpdateLoss(method), before)
        assert seen.loss.item() == pytest.approx(theirs.item(), abs=1e-5)
        assert relative_gap(gradients(model), expected) < 1e-5
        assert 0 < seen.numbers["ratio/clipped"].mean() < 1


@pytest.mark.parametrize("case", OURS_AND_TRLS)
def test_grpo_and_its_kin_are_those_of_trl(tmp_path: Path, case: str):
    method, settings = OURS_AND_TRLS[case]
    arguments = GRPOConfig(
        output_dir=str(tmp_path), beta=0.0, temperature=1.0, num_generations=4, max_completion_length=LIMIT,
        per_device_train_batch_size=4, report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False,
        **{"loss_type": "grpo", "epsilon": 0.1} | settings,
    )  # fmt: skip
    trainer = GRPOTrainer(
        tiny_model(), lambda completions, **_: [0.0] * len(completions), arguments,
        Dataset.from_list([{"prompt": "a"}]), processing_class=letter_tokenizer(),
    )  # fmt: skip
    trainer.beta = method.kl  # set afterwards, or TRL looks for the frozen model on the hub
    model, frozen, old = moved(plain(trainer)), tiny_model(), moved(tiny_model(seed=1))
    rows, rewards, padded_rows = all_samples()
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if not isinstance(method, DrGRPO):
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-4)
    inputs = padded_rows | {
        "advantages": advantages.flatten().float(), "old_per_token_logps": table(old, rows),
        "ref_per_token_logps": table(frozen, rows), "num_items_in_batch": padded_rows["completion_mask"].sum(),
    }  # fmt: skip
    check_against(trainer._compute_loss(model, inputs), model, method, frozen, old)


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_rloo_is_that_of_trl(tmp_path: Path, kl: float):
    arguments = RLOOConfig(
        output_dir=str(tmp_path), beta=0.0, epsilon=0.1, num_generations=4, per_device_train_batch_size=4,
        report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False,
    )  # fmt: skip
    trainer = RLOOTrainer(
        tiny_model(), lambda completions, **_: [0.0] * len(completions), arguments,
        Dataset.from_list([{"prompt": "a"}]), processing_class=letter_tokenizer(),
    )  # fmt: skip
    model, frozen, old = moved(plain(trainer)), tiny_model(), moved(tiny_model(seed=1))
    rows, rewards, padded_rows = all_samples()
    before, start = table(old, rows).sum(dim=1), table(frozen, rows).sum(dim=1)
    rewards = rewards - kl * (before - start).reshape(3, 4)
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / 3
    inputs = padded_rows | {"advantages": (rewards - others).flatten().float(), "old_logps": before}
    check_against(trainer._compute_loss(model, inputs), model, RLOO(clip=0.1, kl=kl, updates=2), frozen, old)


@pytest.mark.parametrize("budget", [1, 10_000])
def test_dpo_is_that_of_trl(tmp_path: Path, budget: int):
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=0.3, report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False
    )
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    data, tokenizer = Dataset.from_list(rows), letter_tokenizer()
    trainer = DPOTrainer(tiny_model(), tiny_model(), arguments, train_dataset=data, processing_class=tokenizer)
    model, frozen = moved(plain(trainer)), tiny_model()
    answers = answers_of(update_of(DPO()))
    order = [answers[row, column] for column in (0, 1) for row in range(3)]  # no samples, hence two columns
    input_ids, attention_mask = padded([[*prompt, *answer] for prompt, answer in order])
    completion_mask = torch.zeros_like(attention_mask)
    for row, (prompt, answer) in enumerate(order):
        completion_mask[row, len(prompt) : len(prompt) + len(answer)] = 1
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}
    theirs = trainer._compute_loss(model, inputs, False)
    theirs.backward()
    expected = gradients(model)
    engine_for(frozen, 0)
    seen = learn(model, DPO(beta=0.3), budget, frozen=frozen)
    assert seen.loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert relative_gap(gradients(model), expected) < 1e-5


@pytest.mark.parametrize("budget", [1, 10_000])
def test_sft_is_that_of_trl(tmp_path: Path, budget: int):
    arguments = SFTConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, activation_checkpointing=False
    )
    rows = [{"prompt": "a", "completion": "b"}]
    data, tokenizer = Dataset.from_list(rows), letter_tokenizer()
    trainer = SFTTrainer(tiny_model(), arguments, train_dataset=data, processing_class=tokenizer)
    model = plain(trainer)
    answers = list(answers_of(update_of(SFT())).values())
    input_ids, attention_mask = padded([[*prompt, *answer] for prompt, answer in answers])
    labels = torch.full_like(input_ids, -100)
    for row, (prompt, answer) in enumerate(answers):
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    theirs = trainer.compute_loss(model, {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels})
    theirs.backward()
    expected = gradients(model)
    seen = learn(model, SFT(), budget)
    assert seen.loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert relative_gap(gradients(model), expected) < 1e-5


@pytest.mark.parametrize("engine", [None, PaddedEngine()])
def test_ppo_is_a_naive_loop(engine):
    model, frozen = moved(tiny_model()), tiny_model()
    critic = ValueHead(32, torch.device("cpu"))
    torch.nn.init.normal_(critic.linear.weight, std=0.3)
    model.add_module("value_head", critic)
    method = PPO(clip=0.1, value_clip=0.05, value=0.5, kl=0.2, discount=0.9, trace=0.8)
    update = update_of(method)
    answers = answers_of(update)

    states: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    known = {}
    for place, (prompt, answer) in answers.items():
        with torch.no_grad():
            old, start = token_logps(model, prompt, answer), token_logps(frozen, prompt, answer)
            values = critic(states[-1][0, len(prompt) - 1 : -1])
        rewards = -0.2 * (old - start)
        rewards[-1] += REWARDS[update_row(update, place)][place[1]]
        advantages, following, later = [], 0.0, 0.0
        for t in reversed(range(len(answer))):
            delta = rewards[t] + 0.9 * following - values[t]
            later = delta + 0.9 * 0.8 * later
            advantages.insert(0, float(later))
            following = values[t]
        known[place] = (old, values, torch.tensor(advantages))
    everything = torch.cat([advantages for _, _, advantages in known.values()])
    mean, deviation = everything.mean(), everything.std(correction=0)

    nudge(model)  # as after the first of several updates
    model.zero_grad()
    loss = torch.zeros(())
    for place, (prompt, answer) in answers.items():
        old, values, advantages = known[place]
        logps = token_logps(model, prompt, answer)
        now = critic(states[-1][0, len(prompt) - 1 : -1])
        white = (advantages - mean) / deviation
        for t in range(len(answer)):
            ratio = (logps[t] - old[t]).exp()
            policy = -min(ratio * white[t], ratio.clamp(0.9, 1.1) * white[t])
            target = advantages[t] + values[t]
            near = values[t] + (now[t] - values[t]).clamp(-0.05, 0.05)
            value = max((now[t] - target) ** 2, (near - target) ** 2) / 2
            loss = loss + (policy + 0.5 * value) / len(answer) / 4 / 3
    loss.backward()
    expected = gradients(model)
    hook.remove()

    nudge(model, -1)
    accelerator, engine = Accelerator(cpu=True), engine or engine_for(model, 0)
    if isinstance(engine, PackedEngine):
        engine_for(frozen, 0)
    before = Observer(engine, accelerator, lambda: _opened(frozen), critic).before(model, update, method, 15)
    nudge(model)
    model.zero_grad()
    seen = accumulate_gradient(model, update, accelerator, engine, 15, UpdateLoss(method, critic), before)
    assert seen.loss.item() == pytest.approx(loss.item(), abs=1e-5)
    assert relative_gap(gradients(model), expected) < 2e-4  # the nudge back is exact to rounding only


def nudge(model, sign: int = 1) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(sign * 0.02 * torch.randn_like(parameter))


def update_row(update: Update, place: tuple[int, int]) -> int:
    return int(update.experience.groups[place[0]].item.example.columns["row"])


def test_generalised_advantages_by_hand():
    # r = (0, 0, 1), V = (0.5, 0.2, 0.4), gamma 0.9, lambda 0.5:
    # delta = (0.9 * 0.2 - 0.5, 0.9 * 0.4 - 0.2, 1 - 0.4) = (-0.32, 0.16, 0.6)
    # A_3 = 0.6, A_2 = 0.16 + 0.45 * 0.6 = 0.43, A_1 = -0.32 + 0.45 * 0.43 = -0.1265
    values = torch.tensor([0.5, 0.2, 0.4, 0.0])
    found = gae(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0, 0.0, 0.5]), values, [3, 1], 0.9, 0.5)
    assert found.tolist() == pytest.approx([-0.1265, 0.43, 0.6, 1.5])  # the second: 2 - 0.5 - 0


def test_sample_advantages_by_hand():
    # (1, 0, -1, missing): mean 0, deviation sqrt(2 / 2) = 1
    missing = torch.nan
    rewards = torch.tensor([[1.0, 0.0, -1.0, missing], [1.0, missing, missing, missing]])
    found = sample_advantages(rewards.double())
    assert found[0, :3].tolist() == pytest.approx([1 / 1.0001, 0, -1 / 1.0001])
    assert found[0, 3].isnan()
    assert found[1].isnan().all()


def test_the_penalty_is_steered_towards_its_target():
    assert adapted_kl(0.1, divergence=6.0, target=6.0) == pytest.approx(0.1)
    assert adapted_kl(0.1, divergence=6.6, target=6.0) == pytest.approx(0.1 * 1.01)
    assert adapted_kl(0.1, divergence=60.0, target=6.0) == pytest.approx(0.1 * 1.02)
    assert adapted_kl(0.1, divergence=0.0, target=6.0) == pytest.approx(0.1 * 0.98)
    ppo, before = PPO(kl_target=6.0), Before(old=torch.tensor([-1.0, -2.0]), frozen=torch.tensor([-1.0, -2.0]))
    assert ppo.adapt({"kl": 0.1}, before, [2], torch.Tensor.tolist, {})[0]["kl"] == pytest.approx(0.1 * 0.98)
    nothing = Before(old=torch.empty(0), frozen=torch.empty(0))
    assert ppo.adapt({"kl": 0.1}, nothing, [], torch.Tensor.tolist, {}) == ({"kl": 0.1}, {})  # no sample, no change


def test_one_update_on_policy_is_the_plain_policy_gradient():
    model = tiny_model()
    clipped = learn(model, GRPO(kl=0.0))
    found = gradients(model)
    advantages = sample_advantages(torch.tensor(REWARDS).double())
    model.zero_grad()
    loss = torch.zeros(())
    update = update_of(GRPO(kl=0.0))
    for (group, column), (prompt, answer) in answers_of(update).items():
        row = update_row(update, (group, column))
        loss = loss - advantages[row, column].float() * token_logps(model, prompt, answer).mean() / 4 / 3
    loss.backward()
    assert relative_gap(found, gradients(model)) < 1e-5
    assert clipped.numbers["ratio/clipped"].sum() == 0


def test_groups_without_signal_are_forwarded_only_for_the_kl_term():
    assert {place[0] for place in update_of(GRPO(kl=0.1)).positions} == {0, 1, 2}
    assert len({place[0] for place in update_of(GRPO(kl=0.0)).positions}) == 2


def test_what_is_seen_before_is_in_the_order_of_the_update():
    model, frozen = moved(tiny_model()), tiny_model()
    engine_for(frozen, 0)
    method = GRPO(kl=0.1, updates=2)
    update, engine = update_of(method), engine_for(model, 0)
    observer = Observer(engine, Accelerator(cpu=True), lambda: _opened(frozen), None)
    before = observer.before(model, update, method, token_budget=13)
    for found, policy in ((before.old, model), (before.frozen, frozen)):
        with torch.no_grad():
            batch = update.batch
            rows = [engine.run(policy, batch.select([row])).tokens for row in range(len(batch.answers))]
        assert torch.allclose(found, torch.cat(rows), atol=1e-5)


def test_the_frozen_model_is_asked_once_about_a_pair():
    model, frozen, asked = tiny_model(), tiny_model(), []
    engine_for(frozen, 0)
    update, method = update_of(DPO()), DPO()

    def open_frozen():
        asked.append(1)
        return _opened(frozen)

    observer = Observer(engine_for(model, 0), Accelerator(cpu=True), open_frozen, None)
    first = observer.before(model, update, method, 10_000).frozen
    second = observer.before(model, update, method, 10_000).frozen
    assert torch.equal(first, second)
    assert len(asked) == 1


def test_a_method_is_found_by_its_name_with_the_settings_of_its_section():
    recipe = {"model": {"path": "m"}, "data": {"path": "d"}, "rewards": [{"function": "a.py:b"}], "output": "o"}
    for name, kind in METHODS.items():
        if not kind.__module__.startswith("grao."):
            continue  # from outside the package
        read = TypeAdapter(Recipe).validate_python({**recipe, "method": {"name": name}}).method
        assert read == kind()
        assert type(read) is kind
    assert TypeAdapter(Recipe).validate_python(recipe).method == GRAO()


def test_the_settings_of_a_method_are_checked():
    with pytest.raises(InputError, match=r"^GRPO: clip must be greater than 0, got 0\.0$"):
        GRPO(clip=0.0)


def test_answers_keep_their_roles():
    update = update_of(DPO())
    assert [answer.role for answer in update.batch.answers] == [Role.REFERENCE, Role.REJECTED] * 3
    assert {answer.role for answer in update_of(GRPO(kl=1.0)).batch.answers} == {Role.SAMPLE}
