"""Uploads an export to the Hugging Face hub, into a repository of its own that is private by default.

The token comes only from the environment (HF_TOKEN). Any failure is one line and loses nothing: the export is complete
on disk.
"""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from grao.errors import InputError, one_line
from grao.reports.model_card import hub_id

_VARIABLE = "HF_TOKEN"
_CAUSES = {
    401: f"the hub does not accept {_VARIABLE}",
    403: f"{_VARIABLE} may not write there, or the account's storage is used up",
    413: "the export is larger than the hub accepts",
    429: "the hub asks to wait: too many requests",
    507: "the account's storage is used up",
}
"""HTTP status -> its likely cause."""


def check_push(repo: str) -> None:
    """Check that a push is possible, before any work is done.

    Raises:
        InputError: if `repo` is not the name of a repository, or there is no token.
    """
    if repo.count("/") != 1 or not hub_id(repo):
        raise InputError(f"--push: {repo!r} is not the name of a repository; give NAME/REPO, such as my-name/my-model")
    if not os.environ.get(_VARIABLE):
        raise InputError(f"--push: {_VARIABLE} is not set; set it to a token with write access")


def upload(folder: Path, repo: str, public: bool, mark: str) -> str:
    """Upload an export; an earlier export in the repository is replaced.

    Args:
        folder: the export.
        repo: `NAME/REPO`; created if it does not exist.
        public: whether the repository is public.
        mark: name of the file that marks a repository as an export.

    Returns:
        The URL of the repository.

    Raises:
        InputError: if the repository contains something else or has the wrong visibility, or the upload fails.
    """
    api = HfApi(token=os.environ[_VARIABLE])
    try:
        _ensure_repo(api, repo, public, mark)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="grao export", delete_patterns="*")
    except Exception as error:  # of any kind; the export is complete on disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        message = str(error) if isinstance(error, InputError) else one_line(error)
        cause = _CAUSES.get(status or 0, "")
        problem = f"{cause} ({message})" if cause else message
        raise InputError(f"--push: {problem}; the export is complete in {folder}") from error
    return f"{api.endpoint}/{repo}"


def _ensure_repo(api: HfApi, repo: str, public: bool, mark: str) -> None:
    """Create the repository, or check that the existing one is an export."""
    try:
        existing = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public)
        return
    names = {file.rfilename for file in existing.siblings or ()} - {".gitattributes"}
    if names and mark not in names:
        raise InputError(f"{repo} exists and is not an export; choose another name")
    if bool(existing.private) == public:
        kind, remedy = ("private", "leave --public out") if existing.private else ("public", "give --public")
        raise InputError(f"{repo} is {kind}; {remedy}, or choose another name")
