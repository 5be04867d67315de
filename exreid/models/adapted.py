"""LightGlue's weights after a training on one species: read from a checkpoint, and written."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from exreid.errors import CheckpointError, reading
from exreid.models.checkpoints import Tensors, read_checkpoint, weights_fingerprint
from exreid.models.lightglue import LightGlue, load_lightglue
from exreid.models.low_rank import merged
from exreid.storage import mirror

LIGHTGLUE = "lightglue"
NETWORK = "backbone"
"""The key of a checkpoint that names its network, as full checkpoints of all trainings have it."""
KEY = "benchmark.matcher_checkpoint"


@dataclass(frozen=True)
class Adapted:
    """The weights of a matcher that was trained for one kind of local features."""

    extractor: str
    """The kind of local features, such as ``aliked-n16``."""
    lightglue: str
    """The name of the published weights that it was made from."""
    fingerprint: str
    """Of all weights: two with the same one are equal."""
    weights: Tensors = field(compare=False, repr=False)

    def network(self) -> LightGlue:
        """The network, float32, for inference."""
        return load_lightglue(self.lightglue, self.weights, source=matcher_name(self.extractor))

    def save(self, file: Path) -> None:
        """Write it as .safetensors."""
        weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        save_file(weights, file, {NETWORK: matcher_name(self.extractor)})


def matcher_name(extractor: str) -> str:
    """The name of a matcher of these local features, in its checkpoints."""
    return f"{LIGHTGLUE} {extractor}"


def checkpoint_content(extractor: str, weights: Tensors) -> dict[str, object]:
    """The content of a checkpoint of a matcher of these local features."""
    return {NETWORK: matcher_name(extractor), "model": weights}


def read_adapted(checkpoint: str) -> tuple[str, Tensors]:
    """The local features that a checkpoint's matcher was trained for, and its weights, by path or
    URL; CheckpointError where it is the checkpoint of something else."""
    file = mirror.local_copy(checkpoint, key=KEY)
    content = read_checkpoint(file, key=KEY)
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            content = {**(opened.metadata() or {}), "model": content}
    name, weights = "", None
    if isinstance(content, dict):
        name, weights = str(content.get(NETWORK, "")), content.get("model")
    kind, _, extractor = name.partition(" ")
    if kind != LIGHTGLUE or not extractor or not isinstance(weights, dict):
        raise CheckpointError(
            f"{file}: is {f'a checkpoint of {name}' if name else 'no checkpoint of a matcher'}. "
            f"{KEY} takes one of exreid finetune with train.what=matcher."
        )
    with reading(file, CheckpointError, "Take the checkpoint that the training wrote."):
        return extractor, merged(weights)


def adapted_matcher(checkpoint: str, lightglue: str) -> Adapted:
    """The matcher of a checkpoint whose features the published weights ``lightglue`` are for; read
    once in a process, and again where the file has changed."""
    seen = mirror.local_copy(checkpoint, key=KEY).stat()
    return _adapted(checkpoint, lightglue, (seen.st_size, seen.st_mtime_ns))


@lru_cache(maxsize=2)
def _adapted(checkpoint: str, lightglue: str, seen: tuple[int, int]) -> Adapted:
    del seen  # Part of the key: another file, other weights.
    extractor, weights = read_adapted(checkpoint)
    network = load_lightglue(lightglue, weights, source=checkpoint)
    own = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return Adapted(extractor, lightglue, weights_fingerprint(network), own)
