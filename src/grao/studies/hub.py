"""An export on the Hugging Face hub, in a repository of its own that is private unless told otherwise.

The key comes from the environment (HF_TOKEN) and from nowhere else. Whatever goes wrong is one line and costs nothing:
the export lies complete on the disk.
"""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from grao.errors import InputError, one_line
from grao.reports.model_card import hub_id

_KEY = "HF_TOKEN"
_MEANING = {
    401: f"the hub does not accept {_KEY}",
    403: f"{_KEY} may not write there, or the account's storage is used up",
    413: "it is larger than the hub takes",
    429: "the hub asks to wait: too many requests",
    507: "the account's storage is used up",
}
"""HTTP status -> what it means here."""


def check_push(repo: str) -> None:
    """Finds before any work what would make a push impossible.

    Raises:
        InputError: if `repo` is no name of a repository, or there is no key.
    """
    if repo.count("/") != 1 or not hub_id(repo):
        raise InputError(f"--push: {repo!r} is no name of a repository; give NAME/REPO, such as my-name/my-model")
    if not os.environ.get(_KEY):
        raise InputError(f"--push: {_KEY} is not set; put a key that may write into the environment")


def upload(folder: Path, repo: str, public: bool, mark: str) -> str:
    """Uploads an export; one that the repository holds already is replaced.

    Args:
        folder: the export.
        repo: `NAME/REPO`; it is made if it does not exist.
        public: whether all may read it.
        mark: a file by which a repository is known to hold an export.

    Returns:
        The address of the repository.

    Raises:
        InputError: if the repository holds something else or is not as private as wanted, or the upload fails.
    """
    api = HfApi(token=os.environ[_KEY])
    try:
        _make(api, repo, public, mark)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="grao export", delete_patterns="*")
    except Exception as error:  # whatever it is, the export is on the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = str(error) if isinstance(error, InputError) else one_line(error)
        meaning = _MEANING.get(status or 0, "")
        problem = f"{meaning} ({said})" if meaning else said
        raise InputError(f"--push: {problem}; the export is complete in {folder}") from error
    return f"{api.endpoint}/{repo}"


def _make(api: HfApi, repo: str, public: bool, mark: str) -> None:
    """Makes the repository, or makes sure that the one there is an export's."""
    try:
        known = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public)
        return
    held = {file.rfilename for file in known.siblings or ()} - {".gitattributes"}
    if held and mark not in held:
        raise InputError(f"{repo} exists already and holds something else; choose another name")
    if bool(known.private) == public:
        kind, remedy = ("private", "leave --public out") if known.private else ("public", "give --public")
        raise InputError(f"{repo} is {kind}; {remedy}, or choose another name")
