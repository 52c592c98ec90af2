"""The section `rollout.vllm`: what vLLM is told beside what every sampling engine is told."""

from typing import Annotated, Literal

from pydantic import Field

from grao.settings import FilePath, PositiveFloat, PositiveInt, Text, settings

COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures between which vLLM takes what it is given."""
ENGINES = ("vllm", "vllm-server")
"""The engines that this section belongs to."""


@settings
class VLLMConfig:
    """vLLM, in this process or as a server on other GPUs."""

    memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """vllm: share of the GPU's memory that it takes while it samples; between rollouts it takes next to none."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """vllm: number format that it computes in."""
    context: PositiveInt | None = None
    """vllm: longest prompt with its completion in tokens; by default what the model has and the memory holds."""
    server: Annotated[Text | None, Field(pattern="^https?://")] = None
    """vllm-server: its address, such as http://localhost:8000."""
    folder: FilePath | None = None
    """vllm-server: folder that both see, through which it gets the weights; by default in /dev/shm."""
    timeout: PositiveFloat = 600.0
    """vllm-server: seconds that an answer may take."""
