"""Sampling by a vLLM server on other GPUs of this machine: `vllm serve`, in development mode.

The policy's weights reach it through a folder in memory that both see, as safetensors; it loads them in place. Several
processes share a server: the first one pushes, and all wait until it has. What vllm.py says of seeds holds here too.
Left out: a transfer from GPU to GPU (NCCL), and servers that see no folder of this machine.
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
        policy: a transformers model, with or without an adapter; the server serves the same model.
        stop_ids: every token that ends a completion.
        pad_id: not needed.
        batch_size: requests under way at once, of this process.
        alone: not needed.
        settings: the section `rollout.vllm`.

    Raises:
        InputError: if the server cannot be reached, is of another version, or was started otherwise.
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
        self._requests, self._at_once = Requests(stop_ids), batch_size
        self._folder = settings.folder or (_MEMORY if _MEMORY.is_dir() else None)
        try:
            check_version(self._ask("/version")["version"], f"runs at {self._url}")
            self._model = self._ask("/v1/models")["data"][0]["id"]
            config = self._ask("/server_info?config_format=json")["vllm_config"]["model_config"]
            logprobs, dtype = config["logprobs_mode"], str(config["dtype"])
        except (LookupError, TypeError) as error:
            problem = f"what {self._url} answers is not what vLLM does"
            raise InputError(f"rollout.vllm.server: {problem}; start it with {_START}") from error
        if logprobs != "raw_logprobs":
            raise InputError(f"rollout.vllm.server: it runs with --logprobs-mode {logprobs}; leave that out")
        self.dtype: torch.dtype = getattr(torch, dtype.removeprefix("torch."))
        """Of its logits: what rounding explains of a gap to the trainer."""

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Generator.generate`. A group is given as soon as its last sample has ended."""
        requests = self._requests.all(keys, sampling)
        groups = Groups(sampling.samples)
        pool = ThreadPoolExecutor(self._at_once)
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
        """See `Generator.sync`. Until all processes have sampled, and until the server has the weights, all wait."""
        several = distributed.is_available() and distributed.is_initialized()
        if several:
            distributed.barrier()
        if not several or distributed.get_rank() == 0:
            self._push(policy)
        elif any(map(is_split, policy.parameters())):
            deque(policy_weights(policy), maxlen=0)  # to gather them takes all processes
        if several:
            distributed.barrier()

    def _push(self, policy: nn.Module) -> None:
        try:
            with TemporaryDirectory(prefix="grao-weights-", dir=self._folder) as folder:
                write_weights(policy_weights(policy), Path(folder))
                self._ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        except (OSError, SafetensorError) as error:
            problem = f"cannot write the model's weights into {self._folder}: {one_line(error)}"
            raise InputError(f"rollout.vllm.folder: {problem}; name one with room for them") from error
        self._ask("/reset_prefix_cache", {})

    def _complete(self, prompt: TokenIds, request: dict[str, Any], sampling: Sampling) -> Answer:
        asked = {"model": self._model, "prompt": list(prompt), "return_token_ids": True, **request}
        (choice,) = self._ask("/v1/completions", asked)["choices"]
        logps, reason = choice["logprobs"]["token_logprobs"], choice["finish_reason"]
        return self._requests.answer(choice["token_ids"], logps, reason, sampling)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers; a body is posted.

        Raises:
            InputError: if it does not answer, or refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                return json.loads(answer.read() or "null")
        except HTTPError as error:
            said = one_line(ValueError(error.read().decode(errors="replace")))
            hint = f"; start it with {_START}" if error.code == 404 else ""
            raise InputError(f"rollout.vllm.server: {self._url}{path} says {error.code}: {said}{hint}") from error
        except (OSError, ValueError, HTTPException) as error:
            problem = f"{self._url} does not answer ({one_line(error)})"
            raise InputError(f"rollout.vllm.server: {problem}; start it with {_START}") from error


def write_weights(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Writes weights into safetensors files of about a gigabyte: no more than one of them is held at a time."""
    part: dict[str, Tensor] = {}
    number = size = 0
    for name, weight in weights:
        part[name] = weight.to("cpu", copy=True).contiguous()  # slices of one tensor may not be written as they are
        size += weight.nbytes
        if size >= _FILE_BYTES:
            save_file(part, folder / f"model-{number:05}.safetensors")
            part, number, size = {}, number + 1, 0
    if part:
        save_file(part, folder / f"model-{number:05}.safetensors")
