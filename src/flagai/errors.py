"""Every exception of the library. Each message says what was found, where, and what to do."""


class FlagAIError(Exception):
    """Base class of all errors that flagai raises on purpose."""


class ConfigError(FlagAIError, ValueError):
    """A configuration file or an override cannot be understood."""


class CheckpointError(FlagAIError, RuntimeError):
    """A weights file is absent, damaged, unsafe or of an unknown format."""


class LoadError(CheckpointError):
    """A sound checkpoint does not fit the model; the message is the whole report."""


class ModelNotFoundError(FlagAIError, FileNotFoundError):
    """No model of this name or path is present."""


class VocabularyError(ModelNotFoundError):
    """A tokenizer's file is damaged, or not of the kind that the model needs."""


class InputError(FlagAIError, ValueError):
    """A model or a task was called with arguments that cannot be right."""


class CatalogError(FlagAIError, ValueError):
    """A model card cannot be understood."""


class HubError(FlagAIError, OSError):
    """Files of a model could not be fetched, verified or stored; the message lists what each source said."""


class OfflineError(HubError):
    """Files are missing, and offline mode forbids to fetch them."""
