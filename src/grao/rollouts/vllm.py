"""Sampling by vLLM in this process, on the policy's GPU.

It sleeps while the policy is trained: its weights and its cache are gone then, and the weights are pushed anew before
each rollout. Every sample is a request with a seed of its own, so that it depends on its key; but vLLM draws with its
own generators, and what a token's logits round to depends on the other requests of the batch: the same samples come
out for the same requests, vLLM, GPU and settings only. Left out: one engine over several GPUs (a server can have that).
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from grao.command import installing
from grao.config.vllm import COLDEST, HOTTEST, VLLMConfig
from grao.engine.interface import base_model
from grao.errors import InputError, one_line
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.weights import policy_weights
from grao.types import Answer, TokenIds

OLDEST, NEWEST = (0, 24), (0, 30)
"""Versions of vLLM whose interfaces were read; 0.31 asks for older transformers than grao does."""
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""What is set before vLLM is imported, unless the user has."""


class VLLMGenerator:
    """Samples groups with a vLLM engine of its own.

    Args:
        policy: a transformers model, with or without an adapter.
        stop_ids: every token that ends a completion.
        pad_id: not needed.
        batch_size: completions sampled at once.
        alone: whether this is the only process; of several each has an engine.
        settings: the section `rollout.vllm`.

    Raises:
        InputError: if vLLM is not there, is of another version, or cannot run this model here.
    """

    def __init__(
        self,
        policy: nn.Module,
        stop_ids: Sequence[int],
        pad_id: int,
        batch_size: int,
        alone: bool,
        settings: VLLMConfig,
    ) -> None:
        library = _library()
        self._requests = Requests(stop_ids)
        self._policy, self._params = policy, library.SamplingParams
        self._final: Any = library.sampling_params.RequestOutputKind.FINAL_ONLY
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        """Of its logits: what rounding explains of a gap to the trainer."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in another process it could not be handed tensors
        with TemporaryDirectory() as folder:
            _save_config(policy, folder)
            try:
                self._llm: Any = library.LLM(
                    folder,
                    load_format="dummy",  # the policy's weights are pushed before the first rollout
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # none of the model's own defaults for sampling
                    dtype=settings.dtype,
                    gpu_memory_utilization=settings.memory_share,
                    max_model_len=settings.context or -1,
                    max_num_seqs=batch_size,
                    enable_prefix_caching=True,
                    enable_sleep_mode=True,
                    logprobs_mode="raw_logprobs",  # before temperature and top-p, as the trainer sees them
                    distributed_executor_backend=None if alone else "external_launcher",
                )
            except Exception as error:  # whatever it says of the model, the memory or the device
                share = f"rollout.vllm.memory_share is {settings.memory_share:g}"
                raise InputError(f"rollout.engine: vllm cannot be started: {one_line(error)} ({share})") from error
        self._awake = True
        self._sleep()

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. A group is given as soon as its last sample has ended."""
        requests = self._requests.all(keys, sampling)
        params = [self._params(**each, detokenize=False, output_kind=self._final) for each in requests]
        texts = [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(sampling.samples)]
        if not self._awake:
            self._load()
        self._wake("kv_cache")
        engine, open_requests = self._llm.llm_engine, dict[str, str]()
        try:
            try:
                ids = self._llm.enqueue(texts, params, use_tqdm=False)
            except ValueError as error:  # a prompt that is too long, most of all
                raise InputError(f"rollout.engine: vllm refuses a request: {one_line(error)}") from error
            open_requests = {name.partition("-")[0]: name for name in ids}  # within the engine a suffix makes it unique
            rows = {name: row for row, name in enumerate(open_requests)}
            groups = Groups(sampling.samples)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if not output.finished:
                        continue
                    open_requests.pop(output.request_id)
                    yield from groups.add(rows[output.request_id], self._answer(output.outputs[0], sampling))
        finally:
            if open_requests:
                engine.abort_request(list(open_requests.values()), internal=True)
            self._sleep()

    def sync(self, policy: nn.Module) -> None:
        """See `Generator.sync`: its weights become the policy's, and what it remembers of prompts is forgotten."""
        self._policy = policy
        self._load()

    def _load(self) -> None:
        """Takes the weights over in place, as from a checkpoint: vLLM prepares them for its kernels anew."""
        if not self._awake:
            self._wake("weights")
            self._awake = True
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy_weights(self._policy)})
        self._llm.reset_prefix_cache()

    def _wake(self, what: str) -> None:
        torch.cuda.empty_cache()  # vLLM asks the device for memory, and finds none that PyTorch keeps for later
        self._llm.wake_up(tags=[what])

    def _sleep(self) -> None:
        self._llm.sleep(level=2)  # which keeps no copy of the weights
        self._awake = False

    def _answer(self, output: Any, sampling: Sampling) -> Answer:
        logps = [entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)]
        return self._requests.answer(output.token_ids, logps, output.finish_reason, sampling)


class Requests:
    """What vLLM is asked for each sample, and what its answers become, in this process and on a server.

    Args:
        stop_ids: every token that ends a completion.
    """

    def __init__(self, stop_ids: Sequence[int]) -> None:
        self._stop_ids = sorted(set(stop_ids))

    def all(self, keys: Sequence[int], sampling: Sampling) -> list[dict[str, Any]]:
        """B * G requests, sample g of prompt b at b * G + g.

        Raises:
            InputError: for a temperature that vLLM would change or refuse.
        """
        if sampling.temperature and not COLDEST <= sampling.temperature <= HOTTEST:
            span = f"from {COLDEST:g} to {HOTTEST:g}"
            raise InputError(f"temperature {sampling.temperature:g}: vLLM samples {span}, and at 0 greedily")
        return [self._of(key, sample, sampling) for key in keys for sample in range(sampling.samples)]

    def _of(self, key: int, sample: int, sampling: Sampling) -> dict[str, Any]:
        """Fields of `SamplingParams`, and of a request to a server: nothing is left to a default of either."""
        return {
            "seed": draw_key(key, sample) >> 1,  # a signed number of 64 bits there
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": self._stop_ids,
            "ignore_eos": True,  # which it would take from the model; ours are in the list
            "logprobs": 0,  # of the token that was drawn, and no other
        }

    def answer(self, ids: Sequence[int], logps: Sequence[float], reason: str | None, sampling: Sampling) -> Answer:
        """A sample, with the token that ended it.

        Raises:
            InputError: if it ended before its time, such as at the end of the context.
        """
        ended = bool(ids) and ids[-1] in self._stop_ids
        if reason != ("stop" if ended else "length") or not (ended or len(ids) == sampling.max_new_tokens):
            problem = f"vLLM broke off a completion after {len(ids)} of {sampling.max_new_tokens} tokens ({reason})"
            raise InputError(f"rollout.engine: {problem}; its context must hold the longest prompt and completion")
        return Answer(tuple(ids), truncated=not ended, logps=tuple(logps))


class Groups:
    """Samples on their way into whole groups.

    Args:
        samples: of each group, G.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._answers: dict[int, dict[int, Answer]] = defaultdict(dict)

    def add(self, row: int, answer: Answer) -> Iterator[tuple[int, list[Answer]]]:
        """Takes the answer to request `row`; yields (prompt, its G answers) if it is the last of its group."""
        prompt, sample = divmod(row, self._samples)
        self._answers[prompt][sample] = answer
        if len(self._answers[prompt]) == self._samples:
            yield prompt, [answer for _, answer in sorted(self._answers.pop(prompt).items())]


def check_version(found: str, where: str) -> None:
    """Raises: InputError if a vLLM is of a version whose interfaces are not known; `where` it runs."""
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if not OLDEST <= numbers <= NEWEST:
        known = " to ".join(f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
        raise InputError(f"rollout.engine: vLLM {found} {where}, and grao knows {known}: {installing('vllm')}")


def _library() -> Any:
    """The package vllm.

    Raises:
        InputError: if it is not there or of another version.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        check_version(version("vllm"), "is installed")
        import_module("vllm.sampling_params")
        return import_module("vllm")
    except (ImportError, PackageNotFoundError) as error:
        raise InputError(f"rollout.engine: vllm needs vLLM: {installing('vllm')} ({one_line(error)})") from error


def _save_config(policy: nn.Module, folder: str) -> None:
    """What vLLM reads of a model when it makes up the weights."""
    model = base_model(policy)
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
