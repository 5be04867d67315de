"""exreid from Python: the runs of the commands, with DataFrames instead of printed tables.

All numbers are the same as the commands'. Nothing is printed, and no file is kept unless a folder
is named.
Errors are those of `exreid.errors`.
"""

import warnings

from exreid.api.features import Keypoints, embed, local_features, match, rank
from exreid.api.galleries import Gallery
from exreid.api.photographs import Image
from exreid.api.probing import Probe, load_images, probe
from exreid.api.settings import Keys
from exreid.api.training import Finetuned, finetune
from exreid.api.watching import in_notebook

if in_notebook():  # of libraries that look for widgets, which exreid does not use
    warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = [
    "Finetuned",
    "Gallery",
    "Image",
    "Keypoints",
    "Keys",
    "Probe",
    "embed",
    "finetune",
    "load_images",
    "local_features",
    "match",
    "probe",
    "rank",
]
