"""The keys of all caches: an image's is made of its content and its animal's region, a stage's of
all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

CACHE_VERSION = 2
"""Raise it when the format of the caches' files changes, not their numbers: 2 has checksums."""


def content_hash(image_bytes: bytes) -> str:
    """32 hex digits of an image file's content."""
    return hashlib.blake2b(image_bytes, digest_size=16).hexdigest()


def image_key(content: str, region: str | None) -> str:
    """32 hex digits of an image's content hash and its animal's region
    (`exreid.records.region_text`): the cache's key for one image."""
    joined = f"{content}\0{region or ''}".encode()
    return hashlib.blake2b(joined, digest_size=16).hexdigest()


def stage_folder(cache: Path, kind: str, description: Mapping[str, object]) -> Path:
    """The cache's folder for the output of a stage of this kind with this description."""
    return cache / kind / describe_fingerprint({**description, "cache_version": CACHE_VERSION})


def describe_fingerprint(description: Mapping[str, object]) -> str:
    """16 hex digits of a stage's description."""
    return hashlib.sha256(json.dumps(dict(description), sort_keys=True).encode()).hexdigest()[:16]


def keys_fingerprint(keys: Sequence[str]) -> str:
    """16 hex digits of some images' keys, in their order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
