"""Lets libraries speak only when something is wrong, so that the terminal stays readable."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Progress bars and advice of transformers and datasets off; our own warnings as one plain line each."""
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_datasets_bar()
    with warnings.catch_warnings(action="default"):
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
        yield
