"""Sampling with a vLLM server on other GPUs of this machine (`vllm serve` in development mode).

The policy's weights are written as safetensors to a folder in shared memory, from which the server reloads them in
place. Several training processes share one server: the first one pushes the weights, and the others wait for it. What
`grao.rollouts.vllm` says about reproducibility applies here too. Left out: weight transfer between GPUs (NCCL), and
servers on other machines.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from grao.config.vllm import VLLMConfig
from grao.engine.sharded import is_split
from grao.errors import InputError, one_line
from grao.rollouts.base import Sampling
from grao.rollouts.vllm import Groups, Requests, check_version
from grao.rollouts.weights import policy_weights
from grao.types import Answer, TokenIds

_MEMORY = Path("/dev/shm")  # noqa: S108
_FILE_BYTES = 1 << 30
_START = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --generation-config vllm"


class VLLMServerGenerator:
    """Samples groups on a server.

    Args:
        policy: a transformers model, with or without an adapter; the server must serve the same model.
        stop_ids: every token that ends a completion.
        pad_id: ignored.
        batch_size: largest number of concurrent requests of this process.
        alone: ignored.
        settings: the section `rollout.vllm`.

    Raises:
        InputError: if the server cannot be reached, is not a supported version, or runs with unsuitable options.
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
        self._url, self._timeout = str(settings.server).rstrip("/"), settings.timeout
        self._requests, self._concurrency = Requests(stop_ids), batch_size
        self._folder = settings.folder or (_MEMORY if _MEMORY.is_dir() else None)
        try:
            check_version(self._call("/version")["version"], f"runs at {self._url}")
            self._model = self._call("/v1/models")["data"][0]["id"]
            config = self._call("/server_info?config_format=json")["vllm_config"]["model_config"]
            logprobs, dtype = config["logprobs_mode"], str(config["dtype"])
        except (LookupError, TypeError) as error:
            problem = f"the server at {self._url} does not answer like vLLM"
            raise InputError(f"rollout.vllm.server: {problem}; start it with {_START}") from error
        if logprobs != "raw_logprobs":
            problem = f"the server runs with --logprobs-mode {logprobs}"
            raise InputError(f"rollout.vllm.server: {problem}; start it without this option")
        self.dtype: torch.dtype = getattr(torch, dtype.removeprefix("torch."))
        """Dtype of the server's logits; its rounding explains part of the gap to the trainer."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. A group is yielded as soon as its last sample has ended."""
        requests = self._requests.all(keys, sampling)
        groups = Groups(sampling.samples)
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            futures = {
                pool.submit(self._complete, prompts[row // sampling.samples], request, sampling): row
                for row, request in enumerate(requests)
            }
            for future in as_completed(futures):
                yield from groups.add(futures[future], future.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def sync(self, policy: nn.Module) -> None:
        """See `Generator.sync`. Waits until all processes have finished sampling, and until the server is updated."""
        several = distributed.is_available() and distributed.is_initialized()
        if several:
            distributed.barrier()
        if not several or distributed.get_rank() == 0:
            self._push(policy)
        elif any(map(is_split, policy.parameters())):
            deque(policy_weights(policy), maxlen=0)  # takes part in gathering the weights, and discards them
        if several:
            distributed.barrier()

    def _push(self, policy: nn.Module) -> None:
        try:
            with TemporaryDirectory(prefix="grao-weights-", dir=self._folder) as folder:
                write_weights(policy_weights(policy), Path(folder))
                self._call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        except (OSError, SafetensorError) as error:
            problem = f"cannot write the model's weights to {self._folder}: {one_line(error)}"
            raise InputError(f"rollout.vllm.folder: {problem}; set it to a folder with enough space") from error
        self._call("/reset_prefix_cache", {})

    def _complete(self, prompt: TokenIds, request: dict[str, Any], sampling: Sampling) -> Answer:
        body = {"model": self._model, "prompt": list(prompt), "return_token_ids": True, **request}
        (choice,) = self._call("/v1/completions", body)["choices"]
        logps, reason = choice["logprobs"]["token_logprobs"], choice["finish_reason"]
        return self._requests.answer(choice["token_ids"], logps, reason, sampling)

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request (POST if there is a body, else GET) and return the parsed JSON response.

        Raises:
            InputError: if the server does not answer, or returns an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                return json.loads(answer.read() or "null")
        except HTTPError as error:
            message = one_line(ValueError(error.read().decode(errors="replace")))
            hint = f"; start it with {_START}" if error.code == 404 else ""
            problem = f"{self._url}{path} returned {error.code}: {message}"
            raise InputError(f"rollout.vllm.server: {problem}{hint}") from error
        except (OSError, ValueError, HTTPException) as error:
            problem = f"{self._url} does not answer ({one_line(error)})"
            raise InputError(f"rollout.vllm.server: {problem}; start it with {_START}") from error


def write_weights(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Write weights to safetensors files of about 1 GiB each, so that only one file's weights are in memory at a time.

    Args:
        weights: pairs of name and value.
        folder: to write to; it exists.
    """
    part: dict[str, Tensor] = {}
    number = size = 0
    for name, weight in weights:
        part[name] = weight.to("cpu", copy=True).contiguous()  # safetensors rejects tensors that share memory
        size += weight.nbytes
        if size >= _FILE_BYTES:
            save_file(part, folder / f"model-{number:05}.safetensors")
            part, number, size = {}, number + 1, 0
    if part:
        save_file(part, folder / f"model-{number:05}.safetensors")
