"""The errors that a user can cause and mend; each message names the place and the remedy."""


class ExreidError(Exception):
    """Base of all errors that exreid raises on purpose."""


class ConfigError(ExreidError):
    """A config file, key or value that cannot be used."""


class MetadataError(ExreidError):
    """A metadata table that cannot be used: columns, paths, identities or splits."""


class ImageError(ExreidError):
    """An image file that cannot be read."""


class MaskError(ExreidError):
    """A mask that cannot be decoded, or that does not fit its image."""


class CheckpointError(ExreidError):
    """Model weights that cannot be found, read or fitted to the model."""


class CacheError(ExreidError):
    """A file of the feature cache that cannot be read."""


class RunError(ExreidError):
    """A run, or a finished run's folder, that cannot go on."""


class TrainingError(ExreidError):
    """A training that cannot go on: a loss that is no number, or lost workers."""


class MatchingError(ExreidError):
    """Pairs of images that could not be matched."""


class CalibrationError(ExreidError):
    """A calibration that cannot be fitted to its pairs, or a saved one that cannot be read."""
