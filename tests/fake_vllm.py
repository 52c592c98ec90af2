"""A vLLM without a GPU: it takes what all recorded versions of the real one do (`vllm_signatures.json`), samples from a
real tiny model, and loses its memory in sleep. What the real one would refuse or get wrong shows here.

Weights are copied when the last of them has come, as the real one does layer by layer: tensors that are changed after
they were handed over are loaded changed. A prompt is remembered until the prefix cache is reset.
"""

import ast
import importlib.machinery
import inspect
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

RECORDED: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("vllm_signatures.json").read_text())


def bound(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name; TypeError if a recorded version would not take it."""
    for signatures in RECORDED.values():
        tree = ast.parse(f"lambda {signatures[name]}: None", mode="eval")
        function = eval(compile(tree, "vllm_signatures.json", "eval"))
        arguments = inspect.signature(function).bind(None, *args, **kwargs).arguments
    return arguments


def words(name: str) -> set[str]:
    """Fields of a class, or methods of a route, in all recorded versions."""
    return set.intersection(*(set(signatures[name].split()) for signatures in RECORDED.values()))


class FakeModel:
    """A model with weights that can be lost, and what it knows of prompts."""

    def __init__(self, config: Any, context: int, most: int) -> None:
        torch.manual_seed(123)
        self.model = AutoModelForCausalLM.from_config(config).eval()
        self.context = min(config.max_position_embeddings, context if context > 0 else 10**9)
        self.most = most
        self.prefixes: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def load(self, weights: list[tuple[str, Tensor]]) -> None:
        missing, unexpected = self.model.load_state_dict(dict(weights), strict=False)
        assert not unexpected
        assert all(self.model.config.tie_word_embeddings and name == "lm_head.weight" for name in missing)

    @torch.no_grad()
    def forget(self) -> None:
        for weight in self.model.parameters():
            weight.fill_(0.5)

    @torch.no_grad()
    def complete(self, prompt: list[int], asked: dict[str, Any]) -> tuple[list[int], list[float], str]:
        """Token ids, log-probabilities of the raw model, and why it ended."""
        assert asked["ignore_eos"]
        assert (asked["logprobs"], asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (0, 0, 0.0, 1.0)
        if len(prompt) >= self.context:
            raise ValueError(f"The prompt has {len(prompt)} tokens, the context is {self.context}")
        draw = torch.Generator().manual_seed(asked["seed"])
        ids, logps = [], []
        while True:
            text = tuple(prompt + ids)
            if ids or text not in self.prefixes:
                logits = self.model(torch.tensor([text])).logits[0, -1]
                if not ids:
                    self.prefixes[text] = logits
            else:
                logits = self.prefixes[text]
            token = int(self._drawn(logits, asked, draw))
            ids.append(token)
            logps.append(logits.log_softmax(-1)[token].item())
            if token in asked["stop_token_ids"]:
                return ids, logps, "stop"
            if len(ids) == asked["max_tokens"] or len(text) + 1 >= self.context:
                return ids, logps, "length"

    @staticmethod
    def _drawn(logits: Tensor, asked: dict[str, Any], draw: torch.Generator) -> Tensor:
        if not asked["temperature"]:
            return logits.argmax()
        probabilities = (logits / asked["temperature"]).softmax(-1)
        ranked, order = probabilities.sort(descending=True)
        kept = ranked * (ranked.cumsum(-1) - ranked < asked["top_p"])
        return order[torch.multinomial(kept, 1, generator=draw)]


class Fake:
    """The package.

    Attributes:
        module: what `import vllm` gives.
        done: what the engine was told, in order.
    """

    def __init__(self) -> None:
        self.version, self.done = max(RECORDED), []

        class SamplingParams:
            def __init__(self, **fields: Any) -> None:
                assert fields.keys() <= words("SamplingParams")
                assert 0 <= fields["seed"] < 2**63
                assert 0 <= fields["temperature"] <= 2
                vars(self).update(fields)

        class LLM(FakeLLM):
            package = self

        self.module, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
        self.module.__path__ = []
        self.module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
        parameters.RequestOutputKind = SimpleNamespace(**{name: name for name in words("RequestOutputKind")})
        self.module.LLM, self.module.SamplingParams = LLM, SamplingParams
        self.module.sampling_params = parameters
        self.modules = {"vllm": self.module, "vllm.sampling_params": parameters}


class FakeLLM:
    """`vllm.LLM` with its engine."""

    package: Fake

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.given = bound("LLM.__init__", *args, **kwargs)
        more = self.given.pop("kwargs", {})
        assert more.keys() <= words("EngineArgs")
        self.given |= more
        assert self.given["skip_tokenizer_init"]
        assert self.given["logprobs_mode"] == "raw_logprobs"
        assert self.given["enable_prefix_caching"]
        assert self.given["enable_sleep_mode"]
        if self.given["gpu_memory_utilization"] > 0.95:
            raise ValueError("Free memory on device cuda:0\nis less than desired")
        config = AutoConfig.from_pretrained(self.given["model"])
        assert config.architectures
        self.engine = FakeModel(config, self.given["max_model_len"], self.given["max_num_seqs"])
        self.llm_engine, self.asleep, self.waiting, self.count = self, set(), {}, 0
        self.lost = self.given["load_format"] == "dummy"
        self._tell("start")

    def _tell(self, what: str) -> None:
        self.package.done.append(what)

    def sleep(self, *args: Any, **kwargs: Any) -> None:
        level = bound("LLM.sleep", *args, **kwargs)["level"]
        assert not self.waiting
        self._tell(f"sleep {level}")
        self.asleep, self.lost = {"weights", "kv_cache"}, level == 2
        self.engine.forget()
        self.engine.prefixes.clear()

    def wake_up(self, *args: Any, **kwargs: Any) -> None:
        tags = bound("LLM.wake_up", *args, **kwargs)["tags"]
        assert self.asleep.issuperset(tags)
        self._tell(f"wake {' '.join(tags)}")
        self.asleep -= set(tags)

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        bound("LLM.reset_prefix_cache", *args, **kwargs)
        self._tell("reset prefixes")
        self.engine.prefixes.clear()
        return True

    def collective_rpc(self, *args: Any, **kwargs: Any) -> list[None]:
        call = bound("LLM.collective_rpc", *args, **kwargs)
        assert call["method"] == "reload_weights"
        weights = bound("GPUModelRunner.reload_weights", **call["kwargs"])["weights_iterator"]
        assert "weights" not in self.asleep
        self._tell("load")
        self.engine.load(list(weights))
        self.lost = False
        return [None]

    def enqueue(self, *args: Any, **kwargs: Any) -> list[str]:
        call = bound("LLM.enqueue", *args, **kwargs)
        assert not self.asleep
        assert not self.lost
        self._tell("sample")
        names = []
        for prompt, params in zip(call["prompts"], call["sampling_params"], strict=True):
            assert params.output_kind == "FINAL_ONLY"
            if len(prompt["prompt_token_ids"]) >= self.engine.context:
                self.waiting.clear()
                raise ValueError("The decoder prompt is longer than\nthe maximum model length")
            self.waiting[str(self.count)] = (prompt["prompt_token_ids"], vars(params))
            names.append(f"{self.count}-{hash(str(self.count)) & 0xFFFFFFFF:08x}")
            self.count += 1
        return names

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def abort_request(self, *args: Any, **kwargs: Any) -> None:
        call = bound("LLMEngine.abort_request", *args, **kwargs)
        assert call["internal"]
        self._tell(f"abort {len(call['request_ids'])}")
        for name in call["request_ids"]:
            del self.waiting[name.partition("-")[0]]

    def step(self) -> list[Any]:
        """The last request of those that fit in at once ends first."""
        name = list(self.waiting)[: self.engine.most][-1]
        prompt, asked = self.waiting.pop(name)
        ids, logps, reason = self.engine.complete(prompt, asked)
        entries = [{token: SimpleNamespace(logprob=logp)} for token, logp in zip(ids, logps, strict=True)]
        fields = {"token_ids": ids, "logprobs": entries, "finish_reason": reason}
        assert fields.keys() <= words("CompletionOutput")
        return [SimpleNamespace(request_id=name, finished=True, outputs=[SimpleNamespace(**fields)])]


class FakeServer:
    """`vllm serve`; settings may be changed.

    Attributes:
        version, logprobs_mode: what it says of itself.
        develops: whether it was started in development mode.
        asked: the paths of all requests.
    """

    def __init__(self, config: Any, context: int = 64) -> None:
        self.version, self.develops = max(RECORDED), True
        self.logprobs_mode, self.asked = "raw_logprobs", []
        self.engine, self.lock = FakeModel(config, context, 8), threading.Lock()
        self.engine.forget()
        self.routes = {
            "/version": lambda body: {"version": self.version},
            "/v1/models": lambda body: {"data": [{"id": "model"}]},
            "/v1/completions": self.completions,
            "/server_info": self.server_info,
            "/collective_rpc": self.collective_rpc,
            "/reset_prefix_cache": self.reset_prefix_cache,
        }

    @contextmanager
    def running(self) -> Iterator[str]:
        """Gives its address."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: Any) -> None:
                with fake.lock:
                    status, answer = fake.answer(self.command.lower(), self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        route = urlsplit(path)
        self.asked.append(route.path)
        hidden = route.path in ("/server_info", "/collective_rpc", "/reset_prefix_cache") and not self.develops
        if hidden or route.path not in self.routes or method not in words(route.path):
            return 404, {"detail": "Not Found"}
        try:
            return 200, self.routes[route.path](body)
        except ValueError as error:
            return 400, {"error": {"message": str(error)}}

    def server_info(self, body: None) -> Any:
        return {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode, "dtype": "torch.float32"}}}

    def collective_rpc(self, body: Any) -> Any:
        assert body["method"] == "reload_weights"
        call = bound("GPUModelRunner.reload_weights", **body["kwargs"])
        files = sorted(Path(call["weights_path"]).glob("*.safetensors"))
        self.engine.load([entry for file in files for entry in load_file(file).items()])
        return {"results": [None]}

    def reset_prefix_cache(self, body: Any) -> Any:
        self.engine.prefixes.clear()
        return {"success": True}

    def completions(self, body: Any) -> Any:
        assert body.keys() <= words("CompletionRequest")
        ids, logps, reason = self.engine.complete(body["prompt"], body)
        logprobs = {"token_logprobs": logps} if body["logprobs"] is not None else None
        choice = {"token_ids": ids, "logprobs": logprobs, "finish_reason": reason}
        assert choice.keys() <= words("CompletionResponseChoice")
        assert logprobs is None or logprobs.keys() <= words("CompletionLogProbs")
        return {"choices": [choice]}
