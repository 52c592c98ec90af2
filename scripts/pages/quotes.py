"""Numbers that sentences quote from the records, page by page.

Left out: times ("about three minutes"), counts of settings, and words such as "half of the way".
"""

from pages.auto_tables import mean_difference, summary
from pages.cells import (
    LEAD,
    NAG,
    RAS,
    TIE,
    calls_to_best,
    falling,
    kappa_of,
    p_prompts,
    p_seeds,
    relative_ras,
    to_best_of,
)
from pages.horizon_tables import lead_of_seed, variation
from pages.sentences import Quote, bare, cell, change, figure, limits, number, quote

README, RESULTS, CLAIMS, METHOD, METHODS, PERFORMANCE, WHICH = (
    "README.md",
    "docs/results.md",
    "docs/claims.md",
    "docs/method.md",
    "docs/methods.md",
    "docs/performance.md",
    "docs/which-method.md",
)
WEAK, ABLE, SIGN = "methods-weak", "methods-able", "sign-weak"
_TIES_OF_SFT = (
    number(TIE, WEAK, "grao"),
    number(TIE, WEAK, "sft"),
    number(TIE, ABLE, "grao"),
    number(TIE, ABLE, "sft"),
)
_RAS_OF_GRPO = (
    number(RAS, WEAK, "grao"),
    number(RAS, WEAK, "grpo"),
    number(RAS, ABLE, "grao"),
    number(RAS, ABLE, "grpo"),
)
_TIES_OF_GRPO = (
    number(TIE, WEAK, "grao"),
    number(TIE, WEAK, "grpo"),
    number(TIE, ABLE, "grao"),
    number(TIE, ABLE, "grpo"),
)
_LIGHT = (
    number(TIE, "light-able", "grao-light"),
    number(TIE, "light-able", "grao"),
    number(TIE, "light-weak", "grao-light"),
    number(TIE, "light-weak", "grao"),
)
_SHORT_ABLE = number(RAS, "ability", "grao-signed", "0.95"), number(RAS, "ability", "grao", "0.95")
_LONG_WEAK, _LONG_ABLE = "horizon-weak", "horizon-able"
_LONG_LEAD = (number(LEAD, _LONG_WEAK, "grpo"), *limits("difference", _LONG_WEAK, "grpo", "both"))
_FIVE_SEEDS = "horizon-seeds", "grpo"
_LONG_RAS = {name: number(RAS, _LONG_WEAK, name) for name in ("grao", "grpo", "ppo", "sft")}
_LONG_TIES = number(TIE, _LONG_WEAK, "grao"), number(TIE, _LONG_WEAK, "grpo")
_LONG_LEVEL = number(RAS, _LONG_ABLE, "grao"), number(RAS, _LONG_ABLE, "grpo")

QUOTES: list[Quote] = [
    quote(
        README,
        "ahead on the weak one (with five seeds {} points of RAS, {} to {} over prompts and seeds;",
        number(LEAD, *_FIVE_SEEDS),
        *limits("difference", *_FIVE_SEEDS, "both"),
    ),
    quote(
        README,
        "{} % of the answers ({} to {}) beat the reference, up from {} % (on a second machine {}, up from {});"
        " {} % are right, up from {} %",
        *(figure("larger", name) for name in ("ras", "low", "high", "ras before")),
        *(figure("larger", f"{name}, second machine") for name in ("ras", "ras before")),
        *(figure("larger", name) for name in ("right", "right before")),
    ),
    quote(
        README,
        "on a second machine RAS rose from {} to {} % ({} to {})",
        *(figure("quickstart", f"{name}, second machine") for name in ("ras before", "ras", "low", "high")),
    ),
    quote(README, "(On the 200 training prompts {} % win", figure("larger", "ras on training prompts")),
    quote(PERFORMANCE, "{} times as fast as TRL's without checkpointing when lengths vary", cell("gpu-update", 5, 2)),
    # docs/results.md, summary
    quote(
        RESULTS, "it is {} against {} % for SFT on the weak base, and {} against {} % on the able one", *_TIES_OF_SFT
    ),
    quote(
        RESULTS,
        "({} against {} %, {} against {} %; win or tie {} against {} % and {} against {} %)",
        *_RAS_OF_GRPO,
        *_TIES_OF_GRPO,
    ),
    quote(
        RESULTS,
        "most ({} points) and behind on the other nine ({})",
        cell("imitable-kinds", 0, 1),
        cell("imitable-kinds", 1, 1),
    ),
    quote(
        RESULTS,
        "GRAO is ahead, {} against {} % ({}, {} to {} over prompts and seeds)",
        _LONG_RAS["grao"],
        _LONG_RAS["grpo"],
        *_LONG_LEAD,
    ),
    quote(RESULTS, "on the able base both are level ({} and {} %)", *_LONG_LEVEL),
    quote(
        RESULTS,
        "{} points of RAS at the end ({} to {} over prompts and seeds; the three seeds by {}, {} and {}),"
        " and {} against {} % by win",
        *_LONG_LEAD,
        *map(lead_of_seed, range(3)),
        *_LONG_TIES,
    ),
    quote(
        RESULTS,
        "GRAO is {} points of RAS ahead ({} to {} over prompts, {} to {} over seeds, {} to {} over both)",
        number(LEAD, *_FIVE_SEEDS),
        *(limit for over in ("prompts", "seeds", "both") for limit in limits("difference", *_FIVE_SEEDS, over)),
    ),
    quote(RESULTS, "it is {} points behind GRAO, which", bare(number(LEAD, _LONG_WEAK, "sft-grpo"))),
    quote(RESULTS, "more of it than the paper's {} costs wins", number(kappa_of("beta"), "beta", point="0.5")),
    quote(
        RESULTS,
        "gains {} and {} points in a world not used to find that",
        bare(number(LEAD, "light-weak", "grao")),
        bare(number(LEAD, "light-able", "grao")),
    ),
    quote(RESULTS, "where `signed` leads ({} against {} %)", *_SHORT_ABLE),
    # the rest of the page
    quote(
        RESULTS,
        "By win or tie, SFT has {} % and GRAO {} % on the weak base, {} and {} % on the able one",
        number(TIE, WEAK, "sft"),
        number(TIE, WEAK, "grao"),
        number(TIE, ABLE, "sft"),
        number(TIE, ABLE, "grao"),
    ),
    quote(RESULTS, "(clear over prompts, p = {} over seeds)", number(p_seeds, ABLE, "ppo")),
    quote(RESULTS, "the gap is smaller: {} against {} % and {} against {} %", *_TIES_OF_GRPO),
    quote(
        RESULTS,
        "level on the weak base ({}, {} and {})",
        *(number(NAG, WEAK, arm) for arm in ("grao", "grpo", "sft")),
    ),
    quote(
        RESULTS,
        "`signed` reaches {} % with eight seeds ({} to {}; {} to {}): `positive` is then {} points ahead"
        " ({} to {} over prompts, p < 0.001; {} to {} over seeds, p = {};",
        number(RAS, SIGN, "grao-signed"),
        *limits("ras", SIGN, "grao-signed", "prompts"),
        *limits("ras", SIGN, "grao-signed", "seeds"),
        bare(number(LEAD, SIGN, "grao-signed")),
        *limits("difference", SIGN, "grao-signed", "prompts"),
        *limits("difference", SIGN, "grao-signed", "seeds"),
        number(p_seeds, SIGN, "grao-signed"),
    ),
    quote(
        RESULTS,
        "weak {} (GRAO), {} (GRPO), {} (PPO); able {}, {}, {}",
        *(number(calls_to_best, study, arm) for study in (WEAK, ABLE) for arm in ("grao", "grpo", "ppo")),
    ),
    quote(
        RESULTS,
        "weak {} % (GRAO), {} % (`signed`), {} % (GRPO), {} % (PPO); able {}, {}, {} and {} %",
        *(number(falling, study, arm) for study in (WEAK, ABLE) for arm in ("grao", "grao-signed", "grpo", "ppo")),
    ),
    quote(
        RESULTS,
        "between kappa {} and {} ({}, {} and {} %); on the able one a lower kappa is better by this measure too"
        " ({} against {} %)",
        *(number(kappa_of("beta"), "beta", point=point) for point in ("0.25", "1")),
        *(number(TIE, "beta", "grao", point) for point in ("0.25", "0.5", "1")),
        *(number(TIE, "beta-able", "grao", point) for point in ("0.05", "0.5")),
    ),
    quote(
        RESULTS,
        "({} against {}), exploration",
        bare(number(NAG, "terms-able-ablation", "grao")),
        bare(number(NAG, "terms-able-ablation", "grao-no-imitation")),
    ),
    quote(
        RESULTS,
        "the change of the difference is {} points, {} to {} over three seeds",
        *change("judge-noise", "grpo")[:3],
    ),
    quote(RESULTS, "is not clear ({}, {} to {} over seeds)", *change("reference-noise", "grpo")[:3]),
    quote(RESULTS, "(GRAO - GRPO): {} points ({} to {} over seeds, p = {})", *change("experts", "grpo")),
    quote(
        RESULTS,
        "the lead over SFT changes by {} points, {} to {}, the lead over GRPO by {}, {} to {}; p = {} each",
        *change("ability", "sft")[:3],
        *change("ability", "grpo"),
    ),
    quote(
        RESULTS,
        "({} against {} %, with widely scattered seeds of GRPO; by win or tie {} against {} %)",
        *(number(rate, "ability-unseen", arm, "0") for rate in (RAS, TIE) for arm in ("grao", "grpo")),
    ),
    quote(RESULTS, "in points the gap is smallest there ({})", number(LEAD, "ability", "grpo", "0")),
    quote(RESULTS, "the mean of `auto` minus the best fixed arm is {} points ({} to {})", *mean_difference()),
    quote(RESULTS, "narrowly ({} points from the best method of each of twelve cases, {} to {})", *mean_difference()),
    quote(
        RESULTS,
        "the highest mean, {} % against {} % for GRPO, the best of the fixed arms, and it is at most {} points behind",
        summary(0, "auto"),
        summary(0, "grpo"),
        summary(1, "auto"),
    ),
    # docs/claims.md
    quote(
        CLAIMS,
        "on the weak base ({} against {} %) and as much on the able one ({} against {} %)",
        *(number(RAS, study, arm) for study in (WEAK, ABLE) for arm in ("grao-signed", "grao")),
    ),
    quote(
        CLAIMS,
        "GRAO is first ({} against {} % for GRPO, three seeds",
        number(RAS, "stories", "grao"),
        number(RAS, "stories", "grpo"),
    ),
    quote(CLAIMS, "GRAO has {} against {} % on the weak base, and {} against {} % on the able one", *_TIES_OF_SFT),
    quote(
        CLAIMS,
        "GRAO ends after 100 steps, GRPO needs {} on the weak base and {} on the able one",
        *(number(to_best_of("grao"), study, "grpo") for study in (WEAK, ABLE)),
    ),
    quote(
        CLAIMS,
        "by {} points on the dense model and by {} with experts, a change of {} ({} to {} over eight seeds, p = {})",
        bare(number(LEAD, "experts", "grpo", "dense")),
        bare(number(LEAD, "experts", "grpo", "moe")),
        *change("experts", "grpo"),
    ),
    quote(
        CLAIMS,
        "{} % (GRPO) and {} % (GRAO) are worse than the one before on the weak base, {} % of both",
        number(falling, WEAK, "grpo"),
        number(falling, WEAK, "grao"),
        number(falling, ABLE, "grao"),
    ),
    quote(
        CLAIMS,
        "have {} and {} % before step 200. The second does not: exploration does not take over afterwards, it has {} %",
        *(cell("term-shares", 0, column) for column in (2, 3, 4)),
    ),
    quote(
        CLAIMS,
        "{} % RAS against {} % for GRPO ({}, {} to {} over prompts and seeds), {} % for PPO and {} % for SFT;"
        " by win or tie {} against {} %",
        _LONG_RAS["grao"],
        _LONG_RAS["grpo"],
        *_LONG_LEAD,
        _LONG_RAS["ppo"],
        _LONG_RAS["sft"],
        *_LONG_TIES,
    ),
    quote(CLAIMS, "GRAO and GRPO are level ({} and {} %)", *_LONG_LEVEL),
    quote(
        CLAIMS,
        "is {} % on the weak base and {} % on the able one",
        number(relative_ras, _LONG_WEAK, "grpo"),
        number(relative_ras, _LONG_ABLE, "grpo"),
    ),
    quote(
        CLAIMS,
        "is {}, {} and {} % of its mean for GRPO (three seeds) and {}, {} and {} % for GRAO",
        *(variation(arm, seed) for arm in ("grpo", "grao") for seed in range(3)),
    ),
    quote(
        WHICH,
        "{} points over GRPO, {} over SFT then GRPO",
        number(LEAD, _LONG_WEAK, "grpo"),
        number(LEAD, _LONG_WEAK, "sft-grpo"),
    ),
    quote(CLAIMS, "on the weak one not over prompts, p = {})", number(p_prompts, WEAK, "grpo")),
    # docs/methods.md, docs/method.md
    quote(
        METHODS,
        "({} points of RAS on an able base, clear over seeds; {} on a weak one",
        number(LEAD, "light-able", "grao"),
        number(LEAD, "light-weak", "grao"),
    ),
    quote(METHODS, "both are level ({} against {} %, {} against {} %)", *_LIGHT),
    quote(METHOD, "leads on the weak base by {} points", bare(number(LEAD, WEAK, "grao-signed"))),
    quote(METHOD, "(40 steps: {} against {} %, ten seeds", *_SHORT_ABLE),
    quote(
        METHOD,
        "after 40 steps {} against {} % on the weak base ({}, {} to {} over prompts",
        number(RAS, "terms-weak-ablation", "grao"),
        number(RAS, "terms-weak-ablation", "grao-scope-samples"),
        number(LEAD, "terms-weak-ablation", "grao-scope-samples"),
        *limits("difference", "terms-weak-ablation", "grao-scope-samples", "prompts"),
    ),
    quote(
        METHOD,
        "and {} against {} on the able one ({}, {} to {})",
        number(RAS, "terms-able-ablation", "grao"),
        number(RAS, "terms-able-ablation", "grao-scope-samples"),
        number(LEAD, "terms-able-ablation", "grao-scope-samples"),
        *limits("difference", "terms-able-ablation", "grao-scope-samples", "prompts"),
    ),
]
