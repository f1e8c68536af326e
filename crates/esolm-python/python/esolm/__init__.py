"""Any-order text diffusion on every GPU.

>>> import esolm
>>> model = esolm.Model.load()              # the very small story model inside the package
>>> print(model.text(prompt="Once upon a time", top_p=0.8, seed=4))

``esolm.types`` describes the options and results, ``esolm.errors`` the exceptions.
"""

from . import errors, types
from ._esolm import Answering, Generation, __version__, devices
from .errors import ArgumentError, ChatError, CheckpointError, DeviceError, EsolmError, OptionError, OutOfMemoryError, TextError
from .model import Model, inspect

__all__ = [
    "Answering",
    "ArgumentError",
    "ChatError",
    "CheckpointError",
    "DeviceError",
    "EsolmError",
    "Generation",
    "Model",
    "OptionError",
    "OutOfMemoryError",
    "TextError",
    "__version__",
    "devices",
    "errors",
    "inspect",
    "types",
]
