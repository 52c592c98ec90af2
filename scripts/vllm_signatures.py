"""Signatures of the vLLM functions that grao calls, read from vLLM's source without importing it.

    python scripts/vllm_signatures.py FOLDER... > tests/vllm_signatures.json

Each FOLDER contains the package `vllm`, unpacked from a wheel or installed, and its `.dist-info`. The fake vLLM of the
tests rejects any call that these signatures do not allow.
"""

import ast
import json
import sys
from pathlib import Path

FUNCTIONS = {
    "entrypoints/llm.py": [f"LLM.{name}" for name in ("__init__", "enqueue", "sleep", "wake_up", "reset_prefix_cache")],
    "v1/engine/llm_engine.py": [f"LLMEngine.{name}" for name in ("has_unfinished_requests", "step", "abort_request")],
    "v1/worker/gpu_model_runner.py": ["GPUModelRunner.reload_weights"],
    "outputs.py": ["RequestOutput.__init__"],
}
FUNCTIONS["entrypoints/llm.py"].append("LLM.collective_rpc")
CLASSES = {
    "engine/arg_utils.py": ["EngineArgs"],
    "sampling_params.py": ["SamplingParams", "RequestOutputKind"],
    "outputs.py": ["CompletionOutput"],
    "logprobs.py": ["Logprob"],
    "entrypoints/openai/completion/protocol.py": [
        "CompletionRequest",
        "CompletionResponseChoice",
        "CompletionLogProbs",
    ],
}
ROUTES = {
    "entrypoints/serve/dev": ["/collective_rpc", "/reset_prefix_cache", "/server_info"],
    "entrypoints/serve/instrumentator": ["/version"],
    "entrypoints/openai": ["/v1/models", "/v1/completions"],
}


def read(folder: Path) -> dict[str, object]:
    """Return name -> parameters of a function, fields of a class, or HTTP methods of a route."""
    package = folder / "vllm"
    signatures: dict[str, object] = {}
    for file, names in FUNCTIONS.items():
        for name in names:
            owner, _, method = name.partition(".")
            functions = [node for node in _class(package / file, owner).body if isinstance(node, ast.FunctionDef)]
            signatures[name] = _parameters(next(node for node in functions if node.name == method).args)
    for file, names in CLASSES.items():
        for name in names:
            fields = (
                node for node in _class(package / file, name).body if isinstance(node, ast.AnnAssign | ast.Assign)
            )
            targets = (node.target if isinstance(node, ast.AnnAssign) else node.targets[0] for node in fields)
            signatures[name] = " ".join(target.id for target in targets if isinstance(target, ast.Name))
    for subpackage, paths in ROUTES.items():
        for path in paths:
            signatures[path] = " ".join(sorted(_methods(package / subpackage, path)))
    return signatures


def _class(file: Path, name: str) -> ast.ClassDef:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _parameters(arguments: ast.arguments) -> str:
    """Parameters without types and default values: `self, level=..., *, mode=...`."""
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument:
            argument.annotation = None
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(...) for default in arguments.kw_defaults]
    return ast.unparse(arguments)


def _methods(folder: Path, path: str) -> set[str]:
    """HTTP methods of a path in any file below a folder."""
    calls = (
        decorator
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute) and decorator.args
    )
    return {call.func.attr for call in calls if isinstance(call.args[0], ast.Constant) and call.args[0].value == path}


def main(folders: list[str]) -> None:
    """Print version -> signatures as JSON."""
    versions = {}
    for folder in map(Path, folders):
        metadata = next(folder.glob("vllm-*.dist-info")) / "METADATA"
        lines = metadata.read_text(encoding="utf-8").splitlines()
        versions[next(line.partition(" ")[2] for line in lines if line.startswith("Version:"))] = read(folder)
    print(json.dumps(versions, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
