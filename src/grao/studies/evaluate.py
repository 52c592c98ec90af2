"""`grao evaluate`: models and ready answers on the same prompts, judged; nothing is trained.

items.jsonl      every prompt with all answers, verdicts and replies of judges
evaluation.json  the numbers, recomputable from items.jsonl
manifest.json    recipe, versions, what was evaluated
report.html      all of it to look at

Models are loaded one after another, and one that is past is let go. Judged is in the order that is given: every one
against the references, and every later one against every earlier one.
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
from grao.studies.given import Labels, agreed, check_labelled, closed_ids, judge_error, read_answers, read_labels
from grao.studies.held_out import Answers, answers_stand, evaluated, held_out, prepared, sampled
from grao.studies.likelihood import sequence_likelihoods, start_of
from grao.studies.prepare import Prepared, Screen, claimed, probe
from grao.studies.settings import anchored
from grao.types import Encoded

_TAKEN = "reference", "before", "after"
"""Names that stand for something of their own in records."""


@dataclass(frozen=True)
class Options:
    """What `grao evaluate` does beside judging answers once."""

    retest: int = 0
    """Prompts on which the judges are asked a second time."""
    kl: bool = False
    """Measure how far each trained model is from the one that it was trained from."""
    judge_error: str | None = None
    """Share of verdicts that are wrong, or the folder of an audit that measured it."""
    labels: str | None = None
    """File of people's preferences."""


@dataclass(frozen=True)
class Contestant:
    """Who answers: a model, or a file of ready answers."""

    name: str
    model: ModelConfig | None = None
    file: str = ""


def contestants(recipe: Recipe, given: Sequence[tuple[str, str]]) -> list[Contestant]:
    """Models and files of answers by name and path; models are loaded as the recipe says, without a new adapter."""
    model = replace(recipe.model, adapter="continue", lora=None)
    return [
        Contestant(name, file=path) if path.endswith(FILE_TYPES) else Contestant(name, replace(model, path=path))
        for name, path in given
    ]


def evaluate_run(run: Path, output: Path, screen: Screen, options: Options | None = None) -> Evaluation:
    """Samples and judges a finished run again, the model before and after; `output` may be the run itself.

    Raises:
        InputError: if the run has no model yet or holds out no prompts, or another output folder is taken.
    """
    manifest = records.read_manifest(run)
    if manifest is None or not (run / "model").is_dir():
        raise InputError(f"{run} holds no finished run: it needs manifest.json and model/")
    elsewhere = output.resolve() != run.resolve()
    with claimed(output) if elsewhere else locked(run):
        recipe = load_recipe(run / "recipe.yaml", values=[("output", str(output))])
        trained = replace(recipe.model, path=str(run / "model"), adapter="continue", lora=None)
        contest = _Contest(recipe, options or Options(), screen)
        contest.enter([Contestant("before", recipe.model), Contestant("after", trained)])
        source = {"run": str(run)} if elsewhere else {}
        text = dump_recipe(anchored(recipe)) if elsewhere else ""
        return contest.record(lambda made: manifest.model_copy(update={"evaluated": now(), **source}), text)


def evaluate_again(recipe: Recipe, run: Path, screen: Screen, options: Options | None = None) -> Evaluation:
    """Judges the recorded answers of a run or an evaluation by the rewards of a recipe; nothing is sampled.

    Raises:
        InputError: if there are no recorded answers, the recipe's prompts are others, or its output folder is taken.
    """
    items = records.read_items(run)
    if not items:
        raise InputError(f"{run} holds no answers to judge again: there is no items.jsonl in it")
    with claimed(recipe.output):
        contest = _Contest(recipe, options or Options(), screen)
        contest.recall(items, run / "model")
        manifest = records.read_manifest(run) or Manifest()
        contest.models = (manifest.model_extra or {}).get("models") or {"after": str(run)}
        source = {"models": contest.models, "run": str(run)}
        return contest.record(lambda made: made.model_copy(update=source), dump_recipe(anchored(recipe)))


def evaluate_models(
    recipe: Recipe, contestants: Sequence[Contestant], screen: Screen, options: Options | None = None
) -> Evaluation:
    """Judges models and ready answers on the held-out prompts of a recipe.

    Raises:
        InputError: if the output folder is taken, no prompts are held out, two have one name, or a model or a file of
            answers is not as it should be: before anything is sampled.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise InputError(f"two of what is evaluated are called {twice!r}; give names: first=PATH second=PATH")
    if unfit := [name for name in names if len(names) > 1 and (name in _TAKEN or "|" in name)]:
        raise InputError(f"{unfit[0]!r} cannot be a name among several; give another: NAME=PATH")
    with claimed(recipe.output):
        contest = _Contest(recipe, options or Options(), screen)
        contest.enter(contestants)
        paths = {each.name: each.model.path if each.model else each.file for each in contestants}
        text = dump_recipe(anchored(recipe))
        return contest.record(lambda made: made.model_copy(update={"models": paths}), text)


def evaluate_recipe(recipe: Recipe, screen: Screen, options: Options | None = None) -> Evaluation:
    """Judges the model of a recipe against the references; nothing is trained.

    Raises:
        InputError: if the output folder is taken, or no prompts are held out.
    """
    return evaluate_models(recipe, [Contestant("model", recipe.model)], screen, options)


class _Contest:
    """One evaluation: prompts and rewards, loaded once, and the answers that have been given.

    Args:
        recipe: prompts, rewards and how is sampled; its model is what tokens are counted by where no model answers.
        options: what else is done.
        screen: where is shown how far it is.
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
        self.asked: dict[str, Sequence[Encoded]] = {}
        self.manifest: Manifest | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.writes = os.environ.get("RANK", "0") == "0"

    def enter(self, contestants: Sequence[Contestant]) -> None:
        """Lets each answer, and judges what it said."""
        self._read_labels([each.name for each in contestants])
        self._forecast(len(contestants))
        models, files = [each for each in contestants if each.model], [each for each in contestants if not each.model]
        for each in models if len(contestants) > 1 else []:
            self._look(each)
        if self.options.kl:
            paths = {each.name: each.model.path for each in models if each.model}
            self.starts = {name: start for name, path in paths.items() if (start := start_of(path))}
            if not self.starts:
                raise InputError("--kl: none of the models is a run or an adapter, so what it began with is not known")
        if files:
            self._without_model(next((each.model.path for each in models if each.model), None))
        self.screen.phases(len(models) + len({*self.starts.values()}) + len(contestants) + 1)
        for each in files:
            self.answers[each.name] = read_answers(each.file, self.items, self.tokenizer)
            self.asked[each.name] = self.items
        for each in models:
            self._sample(each)
        self._measure_kl()
        self._align([each.name for each in contestants])
        self._judge()

    def recall(self, items: Sequence[Item], model: Path) -> None:
        """Takes recorded answers, and judges them; tokens are counted by the tokenizer beside a model that is there."""
        self._read_labels(list(items[0].answers))
        self._forecast(len(items[0].answers))
        by_id: dict[str, list[Encoded]] = {}
        self._without_model(next((path for path in (str(model), self.recipe.model.path) if os.path.isdir(path)), None))
        for each in self.items:
            by_id.setdefault(each.example.id, []).append(each)
        chosen = []
        for item in items:
            if not by_id.get(item.id):
                raise InputError(f"the prompt {item.id} of the recorded answers is not held out by this recipe")
            chosen.append(replace(by_id[item.id].pop(0), prompt_text=item.prompt, reference_text=item.reference))
        self.items = chosen
        self.answers = {name: [item.answers[name] for item in items] for name in items[0].answers}
        self.screen.phases(len(self.answers) + 1)
        self._judge()

    def record(self, manifest: Callable[[Manifest], Manifest], recipe: str = "") -> Evaluation:
        """Writes everything, the text of a recipe too; `manifest` turns what was done here into what is written."""
        with self.screen.stage("comparing, and writing the page"):
            items = self.jury.items(self.items, self.answers)
            options, confidence = self.options, self.recipe.evaluation.confidence
            labels = agreed(items, self.labels, confidence)
            retest = self.jury.retest(self.items, [*self.answers.values()][-1], options.retest, confidence)
            checks = Checks(self.error, retest, labels, self.jury.asked)
            paths = {**self.models, **({"start": self.recipe.model.path} if self.models else {})}
            about = [*trained_on(self.recipe, self.models.values()), *related_judges(self.recipe, paths.values())]
            about = [*short_audit(self.recipe, self.rewards, self.split.train, self.tokenizer, self.writes), *about]
            evaluation = evaluated(items, self.recipe, about, checks)
            if self.writes:
                records.write_evaluation(self.recipe.output, evaluation, items)
                if recipe:
                    replace_text(self.recipe.output / "recipe.yaml", recipe)
                records.write_manifest(self.recipe.output, manifest(self._made()))
                write_report(self.recipe.output)
        return evaluation

    def _read_labels(self, names: Sequence[str]) -> None:
        if self.options.labels:
            self.labels = read_labels(self.options.labels, [example.id for example in self.split.test], names)

    def _forecast(self, answers: int) -> None:
        """Says what the judges will be asked, and at what price, about so many answers to each prompt."""
        test = [Encoded(each, "", (), each.reference, ()) for each in self.split.test]
        pairs = len(test) * answers * (answers + 1) // 2 + min(self.options.retest, len(test))
        for reward, section in zip(self.rewards.rewards, self.recipe.rewards, strict=True):
            certain = 1 + audit_questions(reward, self.recipe, self.split.train)
            if expected := judge_forecast(reward, section, test, pairs, certain):
                self.screen.say(replace(expected, certain=0).words)

    def _look(self, contestant: Contestant) -> None:
        """Makes sure that a model is there before another one is sampled from."""
        chosen = contestant.model
        assert chosen  # noqa: S101
        lora = vars(chosen.lora) if chosen.lora else None
        try:
            policy_shape(chosen.path, chosen.adapter, lora, chosen.dtype, chosen.trust_remote_code)
        except InputError as error:
            raise InputError(f"{contestant.name}: {str(error).removeprefix('model.path: ')}") from error

    def _sample(self, contestant: Contestant) -> None:
        assert contestant.model  # noqa: S101
        with self.screen.stage(f"{len(self.split.test):,} answers of {contestant.name}") as advance:
            ready = prepared(replace(self.recipe, model=contestant.model), self.split, self.rewards)
            self.models[contestant.name], self.writes = contestant.model.path, ready.trainer.is_world_process_zero()
            self.asked[contestant.name] = held_out(ready)
            if self.manifest is None:
                self.items, self.tokenizer, self.manifest = held_out(ready), ready.trainer.tokenizer, ready.manifest
                self.screen.say(answers_stand(ready))
            self.answers[contestant.name] = sampled(ready, advance)
            if contestant.name in self.starts:
                self._add_likelihoods(ready, contestant.name, 1)

    def _measure_kl(self) -> None:
        """From log pi(o) of each trained model to log pi(o) - log pi_start(o)."""
        for path in dict.fromkeys(self.starts.values()):
            model = replace(self.recipe.model, path=path, adapter="continue", lora=None)
            with self.screen.stage(f"distance from {path}"):
                ready = prepared(replace(self.recipe, model=model), self.split, self.rewards)
                for name in (name for name, start in self.starts.items() if start == path):
                    self._add_likelihoods(ready, name, -1)

    def _add_likelihoods(self, ready: Prepared, name: str, sign: int) -> None:
        logs = sequence_likelihoods(ready.trainer, held_out(ready), self.answers[name])
        moved = zip(self.answers[name], logs, strict=True)
        self.answers[name] = [replace(answer, kl=(answer.kl or 0.0) + sign * log) for answer, log in moved]

    def _align(self, names: Sequence[str]) -> None:
        """Puts the answers in order, and leaves out rows that do not fit one of the models."""
        shared = set.intersection(*({item.example.row for item in items} for items in self.asked.values()))
        for name in names:
            said = zip(self.asked[name], self.answers.pop(name), strict=True)
            self.answers[name] = [answer for item, answer in said if item.example.row in shared]
        if missing := len(self.split.test) - len(shared):
            self.screen.say(f"left out: {missing:,} rows that are too long for one of the models")
        self.items = [item for item in self.items if item.example.row in shared]

    def _judge(self) -> None:
        ids = [item.example.id for item in self.items]
        texts = {name: [answer.text for answer in answers] for name, answers in self.answers.items()}
        check_labelled(self.labels, {name: dict(zip(ids, said, strict=True)) for name, said in texts.items()})
        for name, answers in self.answers.items():
            with self.screen.stage(f"judging {name} against the references") as advance:
                self.answers[name] = self.jury.judge(self.items, answers, advance)

    def _without_model(self, path: str | None) -> None:
        """Prompts as they stand in the data; tokens are counted if there is a tokenizer to count them."""
        for reward in self.rewards.rewards:
            if not path and isinstance(reward, FunctionReward) and reward.counts_tokens:
                raise InputError(f"reward {reward.name}: it counts tokens; without a model there are none, name one")
        self.tokenizer = load_tokenizer(path, self.recipe.model.trust_remote_code) if path else None
        probe(self.rewards, self.split.train, self.tokenizer)
        examples = self.split.test
        ids = closed_ids(self.tokenizer, [example.reference for example in examples])
        rows = zip(examples, ids, strict=True)
        self.items = [Encoded(each, context_text(each.prompt), (), each.reference, tokens) for each, tokens in rows]

    def _made(self) -> Manifest:
        """What was done here."""
        facts = {"status": "finished", "started": self.started, "finished": now(), "steps": 0}
        made = self.manifest or Manifest(
            config=ADAPTER.dump_python(self.recipe, mode="json", by_alias=True),
            seed=self.recipe.seed,
            data=DataFacts(held_out=len(self.items), fingerprint=fingerprint([*self.split.train, *self.split.test])),
            versions=records.installed_versions(),
            git=records.git_revision(),
        )
        return made.model_copy(update=facts)
