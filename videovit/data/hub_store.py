"""Files of the Hugging Face Hub: `hf://datasets/user/name@revision/path`.

Through huggingface_hub, but not through its HfFileSystem: that one lists all files of the repository before it reads
one, keeps the list forever, and reads 5 MB more than the range that is asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import unquote

from videovit.config.urls import without_secrets
from videovit.data.stores import REFUSED, SILENCE_S, AbsentError, BusyError, RemoteError, longest_s, shown_error

# A revision is one name, with %2F for slashes, or one of the Hub's own branches.
FILE = re.compile(
    r"hf://(?:(?P<kind>datasets|models|spaces)/|(?!(?:datasets|models|spaces|buckets)/))(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?/(?P<path>.+)",
    re.DOTALL,
)
RESET = re.compile(r";\s*t\s*=\s*(\d+)")
RETRY = re.compile(r"(\d+)")
PART = 1 << 20  # bytes, after which the time is looked at


class HubFile:
    """A file of the Hub.

    Args:
        url: its URL.

    Raises:
        ImportError: huggingface_hub is not installed.
        RemoteError: the URL is malformed.
    """

    def __init__(self, url: str) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError

        self._url = url
        found = FILE.fullmatch(url)
        try:
            if found is None:
                raise HFValidationError("not a file of a repository")
            self._address: str = hf_hub_url(
                found["repo"],
                found["path"],
                repo_type=(found["kind"] or "models").removesuffix("s"),
                revision=unquote(found["revision"] or "") or None,
            )
        except (HFValidationError, UnicodeEncodeError) as error:
            expected = "hf://datasets/user/name/path or hf://datasets/user/name@revision/path"
            raise RemoteError(shown_error(error), where=url, expected=expected) from None

    def info(self) -> tuple[int, str]:
        from huggingface_hub import get_hf_file_metadata

        with self._errors():
            found = get_hf_file_metadata(self._address, timeout=SILENCE_S)
        if found.size is None:
            raise RemoteError("the server does not state the size of the file", where=self._url)
        return found.size, f"{found.etag} {found.size}"

    def read(self, start: int, stop: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        limit_s, begin, content = longest_s(stop - start), time.monotonic(), bytearray()
        # The token is for the Hub alone: the session does not send it to the server that a file is redirected to.
        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with self._errors(), get_session().stream("GET", self._address, headers=headers, timeout=SILENCE_S) as answer:
            hf_raise_for_status(answer)
            for part in answer.iter_bytes(PART):
                content += part
                if time.monotonic() - begin > limit_s:
                    raise TimeoutError(f"not finished in {limit_s:.0f} s")
                if len(content) > stop - start:
                    break
        return bytes(content)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Answers of the Hub that another attempt would not change, as messages."""
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            self._refuse(f"gated repository: {_said(error)}. Accept its conditions on the Hub and set HF_TOKEN")
        except errors.RepositoryNotFoundError:
            self._refuse("repository does not exist, or needs a token (HF_TOKEN) that may read it")
        except errors.RevisionNotFoundError:
            self._refuse("revision does not exist")
        except errors.EntryNotFoundError:
            raise AbsentError("file does not exist", where=without_secrets(self._url)) from None
        except errors.OfflineModeIsEnabled:
            self._refuse("not in the cache, and HF_HUB_OFFLINE is set")
        except errors.HfHubHTTPError as error:
            if error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                raise BusyError(shown_error(error), _pause_s(error.response.headers)) from None
            if error.response.status_code not in REFUSED:
                raise
            self._refuse(f"no permission to read it: {_said(error)}")

    def _refuse(self, what: str) -> None:
        raise RemoteError(what, where=without_secrets(self._url)) from None


def _pause_s(headers: Mapping[str, str]) -> float:
    """How long the Hub asks to pause: `RateLimit: "resolvers";r=0;t=55`, or `Retry-After: 55`; 0 if it does not."""
    found = re.search(r";\s*t\s*=\s*(\d+)", headers.get("RateLimit", "")) or RETRY.fullmatch(
        headers.get("Retry-After", "")
    )
    return float(found[1]) if found else 0.0


def _said(error: OSError) -> str:
    """What the Hub says about an error, which is the last line of the message."""
    return shown_error(OSError(str(error).strip().splitlines()[-1].rstrip(".")))
