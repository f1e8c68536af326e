"""What can go wrong. Every exception of this package is an ``EsolmError``; its fields, where it has any, are those of the library's error."""


class EsolmError(Exception):
    """Something went wrong in esolm; the message says what, and what helps."""


class OptionError(EsolmError, ValueError):
    """An option does not fit the model. May have ``option``, ``value``, ``range``, ``why`` or ``index``."""


class TextError(EsolmError, ValueError):
    """A text cannot become tokens, or tokens no text. May have ``index``, the item's number."""


class CheckpointError(EsolmError):
    """A checkpoint cannot be read, or is damaged."""


class DeviceError(EsolmError, RuntimeError):
    """The GPU failed, or there is none that answers to the choice."""


class OutOfMemoryError(EsolmError, MemoryError):
    """This machine's memory does not suffice."""
