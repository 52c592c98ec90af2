"""The section `rollout.vllm`: settings for vLLM beyond those of all sampling engines."""

from typing import Annotated, Literal

from pydantic import Field

from grao.settings import FilePath, PositiveFloat, PositiveInt, Text, settings

COLDEST, HOTTEST = 0.01, 2.0
"""Range of temperatures that vLLM applies unchanged."""
ENGINES = ("vllm", "vllm-server")
"""The engines that this section applies to."""


@settings
class VLLMConfig:
    """vLLM, in this process or as a server on other GPUs."""

    memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """vllm: share of the GPU memory used while sampling; it is released between rollouts."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """vllm: data type of its computation."""
    context: PositiveInt | None = None
    """vllm: context length in tokens; by default the model's, as far as memory allows."""
    server: Annotated[Text | None, Field(pattern="^https?://")] = None
    """vllm-server: URL of the server, such as http://localhost:8000."""
    folder: FilePath | None = None
    """vllm-server: folder for passing weights, visible to both processes; by default in /dev/shm."""
    timeout: PositiveFloat = 600.0
    """vllm-server: timeout of a request, in seconds."""
