"""`grao evaluate`: judges models and files of answers on the same prompts; nothing is trained.

items.jsonl      every prompt with all answers, verdicts and judge replies
evaluation.json  results, recomputable from items.jsonl
manifest.json    recipe, versions, evaluated models
report.html      report page

Only one model is loaded at a time. In the given order, each is judged against the references and against all earlier
ones.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from grao.config.load import dump_recipe, load_recipe
from grao.config.recipe import ModelConfig, Recipe
from grao.config.schema import ADAPTER
from grao.data.files import FILE_TYPES
from grao.data.load import Split, fingerprint, load_split
from grao.engine.loading import load_tokenizer
from grao.engine.policy import policy_shape
from grao.errors import InputError
from grao.evaluation.answers import Jury
from grao.records import run as records
from grao.records.files import replace_text
from grao.records.lock import locked
from grao.records.numbers import Checks
from grao.records.run import DataFacts, Evaluation, Item, Manifest, now
from grao.reports.run import write_report
from grao.rewards.functions import FunctionReward
from grao.rewards.judge.wording import context_text
from grao.rewards.mix import Mix, make_rewards
from grao.studies.content import short_audit
from grao.studies.doubts import related_judges, trained_on
from grao.studies.forecast import audit_questions, judge_forecast
from grao.studies.given import Labels, check_labels, closed_ids, judge_error, label_agreement, read_answers, read_labels
from grao.studies.held_out import Answers, answer_format, evaluation_of, held_out, prepare_evaluation, sample_held_out
from grao.studies.likelihood import sequence_likelihoods, start_of
from grao.studies.prepare import Prepared, Screen, claim_folder, probe
from grao.studies.settings import with_absolute_paths
from grao.types import Encoded

_RESERVED = "reference", "before", "after"
"""Names with a meaning of their own in records."""


@dataclass(frozen=True)
class Options:
    """Optional measurements of `grao evaluate`."""

    retest: int = 0
    """Number of prompts on which the judges are asked again."""
    kl: bool = False
    """Measure the KL divergence of each trained model from the model it was trained from."""
    judge_error: str | None = None
    """Share of wrong verdicts, or the folder of an audit that measured it."""
    labels: str | None = None
    """File of human preferences."""


@dataclass(frozen=True)
class Contestant:
    """An entry of the evaluation: a model, or a file of answers."""

    name: str
    model: ModelConfig | None = None
    file: str = ""


def contestants(recipe: Recipe, given: Sequence[tuple[str, str]]) -> list[Contestant]:
    """Return the contestants of (name, path) pairs; models get the recipe's settings, but no new adapter."""
    model = replace(recipe.model, adapter="continue", lora=None)
    return [
        Contestant(name, file=path) if path.endswith(FILE_TYPES) else Contestant(name, replace(model, path=path))
        for name, path in given
    ]


def evaluate_run(run: Path, output: Path, screen: Screen, options: Options | None = None) -> Evaluation:
    """Evaluate a finished run again, its start model and its result; `output` may be the run's folder.

    Raises:
        InputError: if the run has no model yet or holds out no prompts, or `output` is in use.
    """
    manifest = records.read_manifest(run)
    if manifest is None or not (run / "model").is_dir():
        raise InputError(f"{run} is not a finished run: it needs manifest.json and model/")
    separate = output.resolve() != run.resolve()
    with claim_folder(output) if separate else locked(run):
        recipe = load_recipe(run / "recipe.yaml", values=[("output", str(output))])
        trained = replace(recipe.model, path=str(run / "model"), adapter="continue", lora=None)
        evaluator = _Evaluator(recipe, options or Options(), screen)
        evaluator.evaluate([Contestant("before", recipe.model), Contestant("after", trained)])
        source = {"run": str(run)} if separate else {}
        text = dump_recipe(with_absolute_paths(recipe)) if separate else ""
        return evaluator.write(lambda _: manifest.model_copy(update={"evaluated": now(), **source}), text)


def evaluate_again(recipe: Recipe, run: Path, screen: Screen, options: Options | None = None) -> Evaluation:
    """Judge recorded answers of a run or an evaluation with the rewards of a recipe; nothing is sampled.

    Raises:
        InputError: if there are no recorded answers, their prompts are not the recipe's, or the folder is in use.
    """
    items = records.read_items(run)
    if not items:
        raise InputError(f"{run} has no answers to judge: there is no items.jsonl in it")
    with claim_folder(recipe.output):
        evaluator = _Evaluator(recipe, options or Options(), screen)
        evaluator.judge_recorded(items, run / "model")
        manifest = records.read_manifest(run) or Manifest()
        evaluator.models = (manifest.model_extra or {}).get("models") or {"after": str(run)}
        source = {"models": evaluator.models, "run": str(run)}
        return evaluator.write(
            lambda manifest: manifest.model_copy(update=source), dump_recipe(with_absolute_paths(recipe))
        )


def evaluate_models(
    recipe: Recipe, contestants: Sequence[Contestant], screen: Screen, options: Options | None = None
) -> Evaluation:
    """Evaluate models and files of answers on the held-out prompts of a recipe.

    Raises:
        InputError: before sampling, if the output folder is in use, no prompts are held out, a name is repeated or
            reserved, or a model or a file of answers is invalid.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        repeated = max(names, key=names.count)
        raise InputError(f"two entries are named {repeated!r}; give names: first=PATH second=PATH")
    if len(names) > 1 and (reserved := [name for name in names if name in _RESERVED or "|" in name]):
        raise InputError(f"{reserved[0]!r} is a reserved name; choose another: NAME=PATH")
    with claim_folder(recipe.output):
        evaluator = _Evaluator(recipe, options or Options(), screen)
        evaluator.evaluate(contestants)
        paths = {entry.name: entry.model.path if entry.model else entry.file for entry in contestants}
        text = dump_recipe(with_absolute_paths(recipe))
        return evaluator.write(lambda manifest: manifest.model_copy(update={"models": paths}), text)


def evaluate_recipe(recipe: Recipe, screen: Screen, options: Options | None = None) -> Evaluation:
    """Evaluate the model of a recipe against the references; nothing is trained.

    Raises:
        InputError: if the output folder is in use, or no prompts are held out.
    """
    return evaluate_models(recipe, [Contestant("model", recipe.model)], screen, options)


class _Evaluator:
    """One evaluation: prompts and rewards, loaded once, and the answers so far.

    Args:
        recipe: prompts, rewards and sampling; its model's tokenizer counts tokens if only recorded answers are judged.
        options: optional measurements.
        screen: shows progress.
    """

    def __init__(self, recipe: Recipe, options: Options, screen: Screen) -> None:
        self.recipe, self.options, self.screen, self.started = recipe, options, screen, now()
        self.error = judge_error(options.judge_error)
        screen.follow(recipe)
        with screen.stage("loading data and rewards"):
            self.split: Split = load_split(recipe.data, recipe.seed)
            if not self.split.test:
                raise InputError("data.held_out: no prompts are held out, so there is nothing to evaluate on")
            self.rewards: Mix = make_rewards(recipe)
        self.jury = Jury(self.rewards)
        self.items: Sequence[Encoded] = []
        self.answers: Answers = {}
        self.labels: Labels = {}
        self.models: dict[str, str] = {}
        self.starts: dict[str, str] = {}
        self.prompts: dict[str, Sequence[Encoded]] = {}
        self.manifest: Manifest | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.writes = os.environ.get("RANK", "0") == "0"

    def evaluate(self, contestants: Sequence[Contestant]) -> None:
        """Collect and judge the answers of all contestants."""
        self._read_labels([entry.name for entry in contestants])
        self._forecast(len(contestants))
        models = [entry for entry in contestants if entry.model]
        files = [entry for entry in contestants if not entry.model]
        for entry in models if len(contestants) > 1 else []:
            self._check_model(entry)
        if self.options.kl:
            paths = {entry.name: entry.model.path for entry in models if entry.model}
            self.starts = {name: start for name, path in paths.items() if (start := start_of(path))}
            if not self.starts:
                raise InputError("--kl: none of the models is a run or an adapter, so their start models are unknown")
        if files:
            self._load_plain_prompts(next((entry.model.path for entry in models if entry.model), None))
        self.screen.phases(len(models) + len({*self.starts.values()}) + len(contestants) + 1)
        for entry in files:
            self.answers[entry.name] = read_answers(entry.file, self.items, self.tokenizer)
            self.prompts[entry.name] = self.items
        for entry in models:
            self._sample(entry)
        self._measure_kl()
        self._align([entry.name for entry in contestants])
        self._judge()

    def judge_recorded(self, items: Sequence[Item], model: Path) -> None:
        """Judge recorded answers; the tokenizer in `model`, else that of the recipe's model, counts tokens."""
        self._read_labels(list(items[0].answers))
        self._forecast(len(items[0].answers))
        by_id: dict[str, list[Encoded]] = {}
        paths = str(model), self.recipe.model.path
        self._load_plain_prompts(next((path for path in paths if os.path.isdir(path)), None))
        for prompt in self.items:
            by_id.setdefault(prompt.example.id, []).append(prompt)
        recorded = []
        for item in items:
            if not by_id.get(item.id):
                raise InputError(f"the recorded prompt {item.id} is not held out by this recipe; use that of the run")
            recorded.append(replace(by_id[item.id].pop(0), prompt_text=item.prompt, reference_text=item.reference))
        self.items = recorded
        self.answers = {name: [item.answers[name] for item in items] for name in items[0].answers}
        self.screen.phases(len(self.answers) + 1)
        self._judge()

    def write(self, manifest: Callable[[Manifest], Manifest], recipe: str = "") -> Evaluation:
        """Write all files, and the text of a recipe if given; `manifest` changes the manifest of this evaluation."""
        with self.screen.stage("comparing and writing the report"):
            items = self.jury.items(self.items, self.answers)
            options, confidence = self.options, self.recipe.evaluation.confidence
            labels = label_agreement(items, self.labels, confidence)
            retest = self.jury.retest(self.items, [*self.answers.values()][-1], options.retest, confidence)
            checks = Checks(self.error, retest, labels, self.jury.asked)
            paths = {**self.models, **({"start": self.recipe.model.path} if self.models else {})}
            doubts = [*trained_on(self.recipe, self.models.values()), *related_judges(self.recipe, paths.values())]
            doubts = [*short_audit(self.recipe, self.rewards, self.split.train, self.tokenizer, self.writes), *doubts]
            evaluation = evaluation_of(items, self.recipe, doubts, checks)
            if self.writes:
                records.write_evaluation(self.recipe.output, evaluation, items)
                if recipe:
                    replace_text(self.recipe.output / "recipe.yaml", recipe)
                records.write_manifest(self.recipe.output, manifest(self._new_manifest()))
                write_report(self.recipe.output)
        return evaluation

    def _read_labels(self, names: Sequence[str]) -> None:
        if self.options.labels:
            self.labels = read_labels(self.options.labels, [example.id for example in self.split.test], names)

    def _forecast(self, answers: int) -> None:
        """Show the expected questions to judges and their cost, for this many answers per prompt."""
        test = [Encoded(example, "", (), example.reference, ()) for example in self.split.test]
        pairs = len(test) * answers * (answers + 1) // 2 + min(self.options.retest, len(test))
        for reward, section in zip(self.rewards.rewards, self.recipe.rewards, strict=True):
            certain = 1 + audit_questions(reward, self.recipe, self.split.train)
            if expected := judge_forecast(reward, section, test, pairs, certain):
                self.screen.say(replace(expected, certain=0).words)

    def _check_model(self, contestant: Contestant) -> None:
        """Raise an InputError if the model is missing; called for all models before any of them samples."""
        model = contestant.model
        assert model  # noqa: S101
        lora = vars(model.lora) if model.lora else None
        try:
            policy_shape(model.path, model.adapter, lora, model.dtype, model.trust_remote_code)
        except InputError as error:
            raise InputError(f"{contestant.name}: {str(error).removeprefix('model.path: ')}") from error

    def _sample(self, contestant: Contestant) -> None:
        assert contestant.model  # noqa: S101
        with self.screen.stage(f"{len(self.split.test):,} answers of {contestant.name}") as advance:
            ready = prepare_evaluation(replace(self.recipe, model=contestant.model), self.split, self.rewards)
            self.models[contestant.name], self.writes = contestant.model.path, ready.trainer.is_world_process_zero()
            self.prompts[contestant.name] = held_out(ready)
            if self.manifest is None:
                self.items, self.tokenizer, self.manifest = held_out(ready), ready.trainer.tokenizer, ready.manifest
                self.screen.say(answer_format(ready))
            self.answers[contestant.name] = sample_held_out(ready, advance)
            if contestant.name in self.starts:
                self._add_likelihoods(ready, contestant.name, 1)

    def _measure_kl(self) -> None:
        """Subtract log pi_start(o) from log pi(o) of each trained model."""
        for path in dict.fromkeys(self.starts.values()):
            model = replace(self.recipe.model, path=path, adapter="continue", lora=None)
            with self.screen.stage(f"KL divergence from {path}"):
                ready = prepare_evaluation(replace(self.recipe, model=model), self.split, self.rewards)
                for name in (name for name, start in self.starts.items() if start == path):
                    self._add_likelihoods(ready, name, -1)

    def _add_likelihoods(self, ready: Prepared, name: str, sign: int) -> None:
        logps = sequence_likelihoods(ready.trainer, held_out(ready), self.answers[name])
        pairs = zip(self.answers[name], logps, strict=True)
        self.answers[name] = [replace(answer, kl=(answer.kl or 0.0) + sign * logp) for answer, logp in pairs]

    def _align(self, names: Sequence[str]) -> None:
        """Order the answers by `names`, and drop rows that are too long for one of the models."""
        shared = set.intersection(*({item.example.row for item in items} for items in self.prompts.values()))
        for name in names:
            answered = zip(self.prompts[name], self.answers.pop(name), strict=True)
            self.answers[name] = [answer for item, answer in answered if item.example.row in shared]
        if missing := len(self.split.test) - len(shared):
            self.screen.say(f"left out: {missing:,} rows that are too long for one of the models")
        self.items = [item for item in self.items if item.example.row in shared]

    def _judge(self) -> None:
        ids = [item.example.id for item in self.items]
        texts = {name: [answer.text for answer in answers] for name, answers in self.answers.items()}
        check_labels(self.labels, {name: dict(zip(ids, answers, strict=True)) for name, answers in texts.items()})
        for name, answers in self.answers.items():
            with self.screen.stage(f"judging {name} against the references") as advance:
                self.answers[name] = self.jury.judge(self.items, answers, advance)

    def _load_plain_prompts(self, path: str | None) -> None:
        """Set the prompts as they are in the data, without a model; tokens are counted if `path` names a tokenizer."""
        for reward in self.rewards.rewards:
            if not path and isinstance(reward, FunctionReward) and reward.counts_tokens:
                raise InputError(f"reward {reward.name} needs token counts; name a model")
        self.tokenizer = load_tokenizer(path, self.recipe.model.trust_remote_code) if path else None
        probe(self.rewards, self.split.train, self.tokenizer)
        rows = self.split.test
        ids = zip(rows, closed_ids(self.tokenizer, [row.reference for row in rows]), strict=True)
        self.items = [Encoded(row, context_text(row.prompt), (), row.reference, tokens) for row, tokens in ids]

    def _new_manifest(self) -> Manifest:
        """Return the manifest of this evaluation."""
        facts = {"status": "finished", "started": self.started, "finished": now(), "steps": 0}
        manifest = self.manifest or Manifest(
            config=ADAPTER.dump_python(self.recipe, mode="json", by_alias=True),
            seed=self.recipe.seed,
            data=DataFacts(held_out=len(self.items), fingerprint=fingerprint([*self.split.train, *self.split.test])),
            versions=records.installed_versions(),
            git=records.git_revision(),
        )
        return manifest.model_copy(update=facts)
