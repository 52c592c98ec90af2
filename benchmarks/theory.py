"""Measures GRAO's mean update F on enumerated softmax problems, against grad E[R], GRPO and REINFORCE: seven tables.

    python benchmarks/theory.py                          the tables, two minutes on one core
    python benchmarks/theory.py --plot docs/theory.png   the figure too
    python benchmarks/theory.py --quick                  fewer policies and steps, some seconds

Unless noted, every prompt has four answers of one token with a parameter each; G = 8, beta 0.5, lambda 0.6.
`enumeration.py` computes F; docs/theory.md interprets the tables.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from enumeration import (
    Field,
    Prompt,
    Weigh,
    ascend,
    asymmetry,
    cosine,
    grao,
    jacobian,
    mean_field,
    noisy_field,
    out_of_reach,
    random_policies,
    reinforce,
    reward_field,
    sampled_update,
    tabular,
    twist,
    update_noise,
)
from theory_figure import Curve, Panels, figure
from torch import Tensor

SAMPLES = 8
GRAO: dict[str, Weigh] = {
    f"{scope} {sign}": grao(scope, sign) for scope in ("joint", "samples") for sign in ("signed", "positive")
}
ARMS: dict[str, Weigh] = {**GRAO, "GRPO": grao("samples", beta=0.0, lambda_=0.0), "REINFORCE": reinforce}
PROMPTS = {
    "verdict, y best": tabular([0, -1, -1, -1], 0),
    "verdict, y beaten": tabular([1, 0, -1, -1], 1),
    "verdict, y worst": tabular([1, 1, 1, 0], 3),
    "graded, y best": tabular([0, -0.4, -0.7, -1], 0),
    "graded, y beaten": tabular([0.4, 0, -0.3, -0.6], 1),
    "graded, y worst": tabular([1, 0.6, 0.3, 0], 3),
}
"""R(k, y) of the four answers; y is the one with reward 0 (in `y worst` the last)."""
UNREACHED = {
    "verdict, y out of reach, best": out_of_reach([-1, -1, -1, -1]),
    "graded, y out of reach, best": out_of_reach([-0.2, -0.6, -0.9, -1.2]),
    "graded, y out of reach, beaten": out_of_reach([0.5, 0.1, -0.2, -0.5]),
}
"""The same with y as a fifth answer, whose probability is always below exp(-12)."""
STARTS = {
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "imitated": [0.01, 0.97, 0.01, 0.01],
    "poor": [0.005, 0.005, 0.495, 0.495],
}
"""Initial policies for the prompts with a beaten reference: best answer, y, two that lose."""


def monte_carlo(steps: int, groups: int) -> None:
    """Print the deviation of the trainer's sampled updates from the exact mean at one random policy."""
    print(f"1  Sampled updates against F: {steps} steps of {groups} groups, largest deviation of the four components\n")
    print(f"{'':<20} {'|F|':>8} {'largest error':>14} {'in standard errors':>19}")
    prompt, theta = PROMPTS["graded, y beaten"], random_policies(1, 4, seed=5)[0]
    for name, weigh in ARMS.items():
        updates = torch.stack([sampled_update(theta, prompt, SAMPLES, weigh, groups, seed) for seed in range(steps)])
        exact = mean_field([prompt], SAMPLES, weigh)(theta)
        gap = (updates.mean(dim=0) - exact).abs()
        sigmas = (gap / (updates.std(dim=0) / steps**0.5)).max()
        print(f"{name:<20} {exact.norm():>8.4f} {gap.max():>14.5f} {sigmas:>19.1f}")


@dataclass(frozen=True)
class Direction:
    """Properties of F at many policies, (policies,) each."""

    cosine: Tensor
    length: Tensor
    """|F| / |grad E[R]|."""
    asymmetry: Tensor
    twist: Tensor
    noise: Tensor
    """E|u - F|^2 / |F|^2 of the update u of one group."""


def direction(prompt: Prompt, samples: int, weigh: Weigh, policies: Tensor) -> Direction:
    """Compare F with grad E[R] at each policy."""
    field, exact = mean_field([prompt], samples, weigh), reward_field([prompt])(policies)
    updates = field(policies)
    matrices = [jacobian(field, theta) for theta in policies]
    noise = torch.stack([update_noise(theta, prompt, samples, weigh) for theta in policies])
    return Direction(
        cosine(updates, exact),
        updates.norm(dim=-1) / exact.norm(dim=-1),
        torch.tensor([asymmetry(matrix) for matrix in matrices]),
        torch.tensor([twist(update, matrix) for update, matrix in zip(updates, matrices, strict=True)]),
        noise / updates.square().sum(-1),
    )


def directions(policies: Tensor) -> dict[str, dict[str, Tensor]]:
    """Print the second table; return the cosines by prompt and arm."""
    print(
        f"\n2  F against grad E[R] at {len(policies)} policies, theta standard normal: medians, and the least cosine\n"
    )
    print(f"{'':<20} {'arm':<18} {'cosine':>7} {'least':>7} {'|F|/|g|':>8} {'asymm.':>7} {'twist':>7} {'noise':>8}")
    cosines: dict[str, dict[str, Tensor]] = {}
    for name, prompt in PROMPTS.items():
        for arm, weigh in ARMS.items():
            result = direction(prompt, SAMPLES, weigh, policies)
            cosines.setdefault(name, {})[arm] = result.cosine
            medians = [value.median().item() for value in (result.length, result.asymmetry, result.twist, result.noise)]
            print(
                f"{name:<20} {arm:<18} {result.cosine.median():>7.3f} {result.cosine.min():>7.3f} "
                f"{medians[0]:>8.2f} {medians[1]:>7.3f} {medians[2]:>7.3f} {medians[3]:>8.2f}"
            )
    return cosines


def group_sizes(policies: Tensor) -> None:
    """Print cosine and asymmetry against G."""
    print("\n3  The same against G, `graded, y beaten`, signed: medians; in parentheses at the uniform policy\n")
    print(f"{'':<10} {'G':>3} {'cosine':>15} {'asymmetry':>15}")
    uniform = torch.zeros(1, 4, dtype=torch.float64)
    for scope in ("joint", "samples"):
        for samples in (2, 4, 8, 16):
            random, flat = (
                direction(PROMPTS["graded, y beaten"], samples, grao(scope), some) for some in (policies, uniform)
            )
            pair = [
                f"{a.median():.3f} ({b[0]:.3f})"
                for a, b in ((random.cosine, flat.cosine), (random.asymmetry, flat.asymmetry))
            ]
            print(f"{scope:<10} {samples:>3} {pair[0]:>15} {pair[1]:>15}")


def ends(starts: int, steps: int) -> None:
    """Print where theta += F leads from random policies."""
    print(
        f"\n4  After {steps} steps theta += F from {starts} random policies: means, and share within 0.01 of the best\n"
    )
    print(f"{'':<30} {'arm':<18} {'E[R]':>7} {'best':>6} {'found':>6} {'log pi(y)':>10} {'|F|^2':>9} {'|theta|':>8}")
    for name, prompt in {**PROMPTS, **UNREACHED}.items():
        for arm, weigh in {**GRAO, "GRPO": ARMS["GRPO"]}.items():
            field = mean_field([prompt], SAMPLES, weigh)
            *_, theta = ascend(random_policies(starts, 4, seed=3), field, [1.0] * steps)
            log_policy = prompt.log_policy(theta)
            reward = log_policy.exp() @ prompt.rewards
            best = prompt.rewards[prompt.offset == 0].max()
            found = (reward > best - 0.01).double().mean()
            print(
                f"{name:<30} {arm:<18} {reward.mean():>7.3f} {best:>6.2f} {found:>6.2f} "
                f"{log_policy[:, prompt.reference].mean():>10.1f} {field(theta).square().sum(-1).mean():>9.1e} "
                f"{theta.norm(dim=-1).mean():>8.1f}"
            )


def speed(limit: int) -> None:
    """Print the steps until 95 % of the possible gain, from three policies."""
    print("\n5  Steps until E[R] covers 95 % of the way to 1, `verdict, y beaten`: theta += F / 4, and F / |F| / 4\n")
    names = [f"{name}{suffix}" for name in STARTS for suffix in ("", ", unit")]
    print(f"{'':<18} " + " ".join(f"{name:>14}" for name in names))
    prompt = PROMPTS["verdict, y beaten"]
    for arm, weigh in {**GRAO, "GRPO": ARMS["GRPO"]}.items():
        plain, needed = mean_field([prompt], SAMPLES, weigh), []
        for policy, field in product(STARTS.values(), (plain, _unit(plain))):
            theta = torch.tensor(policy, dtype=torch.float64).log()
            rewards = (prompt.log_policy(t).exp() @ prompt.rewards for t in ascend(theta, field, [0.25] * limit))
            needed.append(_first_above(rewards, 0.95))
        print(f"{arm:<18} " + " ".join(f"{steps if steps is not None else f'>{limit}':>14}" for steps in needed))


def decay(horizons: list[int], chains: int) -> list[Curve]:
    """Print the least mean |F|^2 of noisy runs next to 1/sqrt(T); return that of constant steps as curves."""
    print(f"\n6  min over t <= T of the mean of |F(theta_t)|^2 over {chains} runs with one sampled group per step\n")
    print(f"{'':<20} {'arm':<18} {'step':<14} " + " ".join(f"{f'T={T}':>9}" for T in horizons) + f" {'slope':>7}")
    rules: dict[str, Callable[[int], list[float]]] = {
        "1/sqrt(T)": lambda horizon: [horizon**-0.5] * horizon,
        "(t+1)^-3/4": lambda horizon: [(t + 1) ** -0.75 for t in range(horizon)],
    }
    curves = []
    cases = [("verdict, y best", "joint signed")]
    cases += [(name, arm) for name in ("verdict, y beaten", "graded, y beaten") for arm in GRAO]
    for name, arm in cases:
        for rule, steps in rules.items():
            least = [_least_square(PROMPTS[name], GRAO[arm], steps(T), chains) for T in horizons]
            slope = _slope(horizons, least)
            print(f"{name:<20} {arm:<18} {rule:<14} " + " ".join(f"{v:>9.2e}" for v in least) + f" {slope:>7.2f}")
            if rule == "1/sqrt(T)":
                curves.append(Curve(f"{name}, {arm}", list(map(float, horizons)), least))
    print("the bound's slope" + " " * 47 + " " * 10 * len(horizons) + "  -0.50")
    return curves


def shared(steps: int) -> dict[str, list[Curve]]:
    """Print and return pi(y) of a prompt that needs y, beside prompts that beat a reference with a shared parameter."""
    print(
        f"\n7  Prompts with a shared parameter, {steps} steps theta += F / 10: pi(y) of the prompt on which y is best\n"
    )
    print(f"{'':<18} " + " ".join(f"{f'{won} won : 1':>12}" for won in (0, 1, 2, 4)) + f" {'log pi(y) won, 4 : 1':>22}")
    curves: dict[str, list[Curve]] = {}
    for arm, weigh in GRAO.items():
        line, last = [], float("nan")
        for won in (0, 1, 2, 4):
            first, second = _with_shared_style()
            field = mean_field([first] * won + [second], SAMPLES, weigh)
            path = torch.stack(list(ascend(torch.zeros(7, dtype=torch.float64), field, [0.1 * (won + 1)] * steps)))
            needed = second.log_policy(path)[:, second.reference].exp()
            last = first.log_policy(path[-1])[first.reference].item()
            line.append(f"{needed[-1]:>12.3f}")
            if won:
                curves.setdefault(arm, []).append(
                    Curve(f"{won} won : 1", list(map(float, range(steps + 1))), needed.tolist())
                )
        print(f"{arm:<18} " + " ".join(line) + f" {last:>22.1f}")
    return curves


def pushed(steps: int) -> list[Curve]:
    """Return log pi(y) of the beaten reference over the steps."""
    curves = []
    for arm, weigh in GRAO.items():
        prompt = PROMPTS["verdict, y beaten"]
        path = ascend(torch.zeros(4, dtype=torch.float64), mean_field([prompt], SAMPLES, weigh), [0.25] * steps)
        values = [prompt.log_policy(theta)[prompt.reference].item() for theta in path]
        curves.append(Curve(arm, list(map(float, range(steps + 1))), values))
    return curves


def _with_shared_style() -> tuple[Prompt, Prompt]:
    """Return two prompts with three answers and own parameters, and a seventh parameter shared by both references."""
    own = torch.eye(6, dtype=torch.float64)
    style = torch.tensor([0, 1, 0, 1, 0, 0], dtype=torch.float64)[:, None]
    features, none = torch.cat([own, style], dim=1), torch.zeros(3, dtype=torch.float64)
    beaten = Prompt(torch.tensor([1.0, 0, -1], dtype=torch.float64), 1, features[:3], none)
    best = Prompt(torch.tensor([0.0, -1, -1], dtype=torch.float64), 0, features[3:], none)
    return beaten, best


def _least_square(prompt: Prompt, weigh: Weigh, steps: list[float], chains: int) -> float:
    exact: Field = mean_field([prompt], SAMPLES, weigh)
    noisy = noisy_field(prompt, SAMPLES, weigh, torch.Generator().manual_seed(0))
    path = ascend(torch.zeros(chains, 4, dtype=torch.float64), noisy, steps)
    return min(exact(theta).square().sum(-1).mean().item() for theta in path)


def _unit(field: Field) -> Field:
    """Return the field normalized to length 1, roughly as Adam would."""
    return lambda theta: torch.nn.functional.normalize(field(theta), dim=-1, eps=1e-300)


def _slope(x: list[int], y: list[float]) -> float:
    """Least-squares slope of the logarithms."""
    a, b = torch.tensor(x, dtype=torch.float64).log(), torch.tensor(y, dtype=torch.float64).log()
    return float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


def _first_above(values: Iterator[Tensor], share: float) -> int | None:
    """First step at which this share of the way from the first value to 1 is covered."""
    start = next(values)
    return next((step for step, value in enumerate(values, 1) if value >= start + share * (1 - start)), None)


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description="The mean update of GRAO on enumerated problems")
    parser.add_argument("--quick", action="store_true", help="fewer policies and steps, some seconds")
    parser.add_argument("--plot", type=Path, help="file of the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quick = arguments.quick
    policies = random_policies(20 if quick else 200, 4, seed=0)
    monte_carlo(50 if quick else 400, 50 if quick else 250)
    cosines = directions(policies)
    group_sizes(policies)
    ends(4 if quick else 32, 200 if quick else 4000)
    speed(1000 if quick else 20000)
    curves = decay([64, 256] if quick else [64, 256, 1024, 4096], 8 if quick else 64)
    needed = shared(200 if quick else 2000)
    if arguments.plot:
        figure(Panels(cosines, curves, pushed(100), needed)).savefig(arguments.plot)


if __name__ == "__main__":
    main()
