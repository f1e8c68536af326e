"""What can go wrong.

Whatever the package itself refuses or fails at is an :class:`EsolmError`, with a ``code`` that a program can tell it by, a message that says
what is wrong and what helps, and ``data``, the fields of the library's error, such as
``{"option": "top_p", "value": "2", "range": "a number above 0, up to 1"}``. What is Python's own stays so: ``KeyboardInterrupt``, the ``TypeError`` of
a call without a needed argument, and what an object raises that is given as an argument.
"""

from __future__ import annotations

from typing import Any, Optional

__all__ = ["ArgumentError", "ChatError", "CheckpointError", "DeviceError", "EsolmError", "OptionError", "OutOfMemoryError", "TextError"]


class EsolmError(Exception):
    """Something went wrong in esolm.

    Codes of this class itself: ``busy`` (a call that would wait for ever), ``stopped`` and ``internal`` (a fault of esolm).
    """

    #: What a program can tell the error by.
    code: str = "internal"
    #: The fields of the library's error.
    data: dict[str, Any]

    def __init__(self, message: str, code: Optional[str] = None, data: Optional[dict[str, Any]] = None):
        super().__init__(message)
        self.code = code or type(self).code
        self.data = data or {}

    def __reduce__(self) -> tuple[Any, ...]:
        # With its fields also where it comes from another process.
        return type(self), (str(self), self.code, self.data)


class OptionError(EsolmError, ValueError):
    """An option is out of range, or does not fit the model: ``option``."""

    code = "option"


class ArgumentError(OptionError, TypeError):
    """An option that a call does not have, or an argument of a type that it does not take: ``type``."""

    code = "type"


class TextError(EsolmError, ValueError):
    """A text cannot become tokens (``text``), or there is no usable tokenizer (``tokenizer``)."""

    code = "text"


class CheckpointError(EsolmError):
    """A checkpoint cannot be read, or is damaged: ``checkpoint``."""

    code = "checkpoint"


class DeviceError(EsolmError, RuntimeError):
    """There is no such GPU (``no_adapter``), it failed (``device_lost``), or its driver refuses a kernel (``shader``)."""

    code = "device_lost"


class OutOfMemoryError(EsolmError, MemoryError):
    """The memory of the device or of this machine does not suffice: ``out_of_memory``."""

    code = "out_of_memory"


class ChatError(EsolmError, ValueError):
    """A conversation that the model cannot go on with: ``chat``."""

    code = "chat"


_CLASSES: dict[str, type[EsolmError]] = {
    "option": OptionError,
    "type": ArgumentError,
    "text": TextError,
    "tokenizer": TextError,
    "checkpoint": CheckpointError,
    "no_adapter": DeviceError,
    "device_lost": DeviceError,
    "shader": DeviceError,
    "out_of_memory": OutOfMemoryError,
    "chat": ChatError,
}


def _made(code: str, message: str, data: dict[str, Any]) -> EsolmError:
    """The exception of a code; the native module calls this."""
    return _CLASSES.get(code, EsolmError)(message, code, data)
