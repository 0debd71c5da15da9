"""Saved models on the Hugging Face Hub, those of transformers too, through the package huggingface_hub.

Its environment variables apply, such as HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import cast

from videovit.engine.checkpoints.hf_folder import PATTERNS, TENSOR_PATTERNS, is_hf, weights_in
from videovit.engine.checkpoints.saved_model import FILES
from videovit.errors import UserError

PREFIX = "hf://"


def download(source: str) -> Path:
    """The folder of a model of the Hub, downloaded into the cache of huggingface_hub.

    Args:
        source: `hf://user/name`, or `hf://user/name@revision`.

    Raises:
        UserError: huggingface_hub is not installed, the name is malformed, or the model can neither be downloaded nor
            found in the cache.
    """
    repo, _, revision = source.removeprefix(PREFIX).partition("@")
    with talking(source) as hub:
        wanted = [*FILES, *PATTERNS]
        folder = Path(hub.snapshot_download(repo, revision=revision or None, allow_patterns=wanted))
        if is_hf(folder) and weights_in(folder) is None:
            wanted += TENSOR_PATTERNS
            folder = Path(hub.snapshot_download(repo, revision=revision or None, allow_patterns=wanted))
    return folder


def upload(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """Upload a saved model.

    Args:
        folder: of the model.
        repo: user/name; created if there is none.
        private: whether a new repository is private.
        message: of the commit.

    Returns:
        The URL of the commit.

    Raises:
        UserError: huggingface_hub is not installed, the name is malformed, or the Hub refuses.
    """
    with talking(PREFIX + repo) as hub:
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        return str(done.commit_url)


@contextmanager
def talking(where: str) -> Iterator[ModuleType]:
    """The package, and its errors as one of ours.

    Raises:
        UserError: it is not installed, or the block failed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        hint = "pip install huggingface_hub"
        raise UserError("needs the package huggingface_hub", where=where, hint=hint) from error
    # What the Hub answers is an OSError; a broken connection is an error of the HTTP library, which differs by version.
    http_error = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        yield huggingface_hub
    except (OSError, http_error, HFValidationError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"failed: {reason or type(error).__name__}", where=where) from error
