"""Sampling with vLLM in this process, on the policy's GPU.

vLLM sleeps while the policy is trained: its weights and cache are then freed, and the policy's weights are loaded again
before each rollout. Every sample is a request with a seed derived from its key. But vLLM has its own random generators,
and the rounding of logits depends on the other requests in the batch; so samples are reproducible only with the same
requests, vLLM version, GPU and settings. Left out: one engine over several GPUs (a vLLM server can do that).
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
"""Supported versions of vLLM; 0.31 requires an older transformers than grao does."""
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Environment variables that are set before vLLM is imported, unless the user has set them."""


class VLLMGenerator:
    """Samples groups with a vLLM engine of its own.

    Args:
        policy: a transformers model, with or without an adapter.
        stop_ids: every token that ends a completion.
        pad_id: ignored.
        batch_size: largest number of concurrent completions.
        alone: whether this is the only process; with several, each has an engine of its own.
        settings: the section `rollout.vllm`.

    Raises:
        InputError: if vLLM is not installed, is not a supported version, or cannot run this model here.
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
        """Dtype of vLLM's logits; its rounding explains part of the gap to the trainer."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are passed as tensors within this process
        with TemporaryDirectory() as folder:
            _save_config(policy, folder)
            try:
                self._llm: Any = library.LLM(
                    folder,
                    load_format="dummy",  # the policy's weights are loaded before the first rollout
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # ignore the model's own sampling defaults
                    dtype=settings.dtype,
                    gpu_memory_utilization=settings.memory_share,
                    max_model_len=settings.context or -1,
                    max_num_seqs=batch_size,
                    enable_prefix_caching=True,
                    enable_sleep_mode=True,
                    logprobs_mode="raw_logprobs",  # before temperature and top-p, like the trainer's
                    distributed_executor_backend=None if alone else "external_launcher",
                )
            except Exception as error:  # vLLM raises exceptions of any type about model, memory or device
                share = f"rollout.vllm.memory_share is {settings.memory_share:g}"
                raise InputError(f"rollout.engine: cannot start vLLM: {one_line(error)} ({share})") from error
        self._awake = True
        self._sleep()

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. A group is yielded as soon as its last sample has ended."""
        requests = self._requests.all(keys, sampling)
        params = [self._params(**request, detokenize=False, output_kind=self._final) for request in requests]
        texts = [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(sampling.samples)]
        if not self._awake:
            self._load()
        self._wake("kv_cache")
        engine, open_requests = self._llm.llm_engine, dict[str, str]()
        try:
            try:
                ids = self._llm.enqueue(texts, params, use_tqdm=False)
            except ValueError as error:  # usually because a prompt is too long
                raise InputError(f"rollout.engine: vLLM rejects a request: {one_line(error)}") from error
            # Outputs carry the request's id without the suffix that the engine adds to make it unique.
            open_requests = {name.partition("-")[0]: name for name in ids}
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
        """See `Generator.sync`. Also clears the prefix cache, which belongs to the old weights."""
        self._policy = policy
        self._load()

    def _load(self) -> None:
        """Load the policy's weights as if from a checkpoint, so that vLLM converts them for its kernels again."""
        if not self._awake:
            self._wake("weights")
            self._awake = True
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": policy_weights(self._policy)})
        self._llm.reset_prefix_cache()

    def _wake(self, tag: str) -> None:
        torch.cuda.empty_cache()  # vLLM allocates from the device, so PyTorch's cached memory must be returned to it
        self._llm.wake_up(tags=[tag])

    def _sleep(self) -> None:
        self._llm.sleep(level=2)  # level 2 discards the weights instead of copying them to the CPU
        self._awake = False

    def _answer(self, output: Any, sampling: Sampling) -> Answer:
        logps = [entry[token].logprob for token, entry in zip(output.token_ids, output.logprobs, strict=True)]
        return self._requests.answer(output.token_ids, logps, output.finish_reason, sampling)


class Requests:
    """Builds vLLM requests and reads their results, for an engine in this process and for a server.

    Args:
        stop_ids: every token that ends a completion.
    """

    def __init__(self, stop_ids: Sequence[int]) -> None:
        self._stop_ids = sorted(set(stop_ids))

    def all(self, keys: Sequence[int], sampling: Sampling) -> list[dict[str, Any]]:
        """Return the B * G requests of a rollout; sample g of prompt b is at index b * G + g.

        Args:
            keys: random keys of the B prompts.
            sampling: settings of the rollout.

        Raises:
            InputError: for a temperature that vLLM would change or reject.
        """
        if sampling.temperature and not COLDEST <= sampling.temperature <= HOTTEST:
            allowed = f"from {COLDEST:g} to {HOTTEST:g}"
            raise InputError(f"temperature {sampling.temperature:g}: vLLM allows 0 (greedy), or {allowed}")
        return [self._request(key, sample, sampling) for key in keys for sample in range(sampling.samples)]

    def _request(self, key: int, sample: int, sampling: Sampling) -> dict[str, Any]:
        """Return the fields of `SamplingParams`, which are also those of a server request; no default is relied on."""
        return {
            "seed": draw_key(key, sample) >> 1,  # vLLM's seeds are signed 64-bit integers
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": self._stop_ids,
            "ignore_eos": True,  # ignore the model's own end token; all stop tokens are listed above
            "logprobs": 0,  # of the sampled token only
        }

    def answer(self, ids: Sequence[int], logps: Sequence[float], reason: str | None, sampling: Sampling) -> Answer:
        """Return a finished completion as an answer.

        Args:
            ids: its token ids, end token included.
            logps: log-probability of each token.
            reason: vLLM's finish reason.
            sampling: settings of the rollout.

        Raises:
            InputError: if it ended early, for instance at the end of vLLM's context.
        """
        ended = bool(ids) and ids[-1] in self._stop_ids
        if reason != ("stop" if ended else "length") or not (ended or len(ids) == sampling.max_new_tokens):
            problem = f"vLLM cut off a completion after {len(ids)} of {sampling.max_new_tokens} tokens ({reason})"
            raise InputError(f"rollout.engine: {problem}; its context must hold the longest prompt and completion")
        return Answer(tuple(ids), truncated=not ended, logps=tuple(logps))


class Groups:
    """Collects finished samples into complete groups.

    Args:
        samples: samples per group, G.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._answers: dict[int, dict[int, Answer]] = defaultdict(dict)

    def add(self, row: int, answer: Answer) -> Iterator[tuple[int, list[Answer]]]:
        """Add the answer to request `row`; yield (prompt index, its G answers) if this completes the group."""
        prompt, sample = divmod(row, self._samples)
        self._answers[prompt][sample] = answer
        if len(self._answers[prompt]) == self._samples:
            yield prompt, [answer for _, answer in sorted(self._answers.pop(prompt).items())]


def check_version(vllm_version: str, where: str) -> None:
    """Check that a version of vLLM is supported.

    Args:
        vllm_version: such as `0.24.1`.
        where: for the message, such as `is installed`.

    Raises:
        InputError: if it is not supported.
    """
    numbers = tuple(map(int, re.findall(r"\d+", vllm_version)[:2]))
    if not OLDEST <= numbers <= NEWEST:
        supported = " to ".join(f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
        problem = f"vLLM {vllm_version} {where}, but grao supports {supported}"
        raise InputError(f"rollout.engine: {problem}: {installing('vllm')}")


def _library() -> Any:
    """Import vllm.

    Raises:
        InputError: if it is not installed or not a supported version.
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
    """Write the config.json that vLLM builds the model from."""
    model = base_model(policy)
    config = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
