"""Reads the state dict of a file of `torch.save` as numpy arrays; the file is read as data, no code in it is run."""

import argparse
import collections
import itertools
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Mapping

import numpy as np
from ml_dtypes import bfloat16

from cvmae.interop import numpy_pickles
from cvmae.interop.pretrained import WeightsError, first_line, unreadable

# Keys of the state dict in published checkpoints: MAE and VideoMAE, mae_st, DeepSpeed's, Lightning's, V-JEPA 2's (the average of its
# encoder, which its authors evaluate, before the encoder itself); the first one present.
CONTAINERS = ("model", "model_state", "module", "state_dict", "target_encoder", "encoder")
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save before 1.6
_OPERATIONS = 100_000  # of a pickle that are looked at for a message
_DEPTH = 4  # state dicts in each other, {'model': {'state_dict': ...}}
_REMEDY = (
    "get these weights as safetensors or as a bare state dict, from torch.save(model.state_dict(), FILE) where they were made"
)
# The errors that torch.load was seen to raise on files cut short or with bytes changed.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_state(file: str, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of the state dict in a torch file.

    The state dict is under one of `CONTAINERS`, also of two in each other, or is all of the file; what stands beside it (optimizer, epoch, arguments) is
    ignored. Keys are those of the file: `wrappers.unwrap` takes off what DistributedDataParallel and others put before them.

    Args:
      file: the file.
      notes: takes a line for other weights of the same model beside those that are read, such as their moving average.

    Returns:
      Arrays that own their memory, in the file's dtypes; bfloat16 is that of `ml_dtypes`.

    Raises:
      WeightsError: torch is not installed; the file is damaged, holds no state dict, or one with a value that is no tensor; or
        reading it would run code, which is never done.
    """
    state, unread = _state_dict(_load(file), file)
    if notes is not None:
        notes += unread
    arrays, reasons = {}, {}
    for key, value in state.items():
        try:
            arrays[key] = _array(value)
        except (TypeError, ValueError, RuntimeError, MemoryError) as error:
            reasons[key] = first_line(error)
    if reasons:
        raise WeightsError(file, unreadable(reasons))
    return arrays


def _load(file: str):
    """Calls `torch.load` so that it can make nothing but tensors and plain values."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(file, ["reading torch files needs torch: pip install 'crossvideomae[torch]'"]) from error
    with open(file, "rb") as opened:
        head = opened.read(64)
    is_zip = head.startswith(b"PK\x03\x04")
    # VideoMAE, MAE and mae_st save their command's arguments beside the model, under `args`: argparse's Namespace, a bag of
    # attributes without code of its own. Its values are read under the same rule. Numbers of numpy and paths are read by
    # stand-ins of ours (numpy_pickles.py). No other class is let through.
    with torch.serialization.safe_globals([argparse.Namespace, *numpy_pickles.allowed()]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # said in the error, if it matters
        try:
            # Mapped, an optimizer's state takes neither time nor memory; files from before torch 1.6 are no zip and cannot be mapped.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
        except _LOAD_ERRORS as error:
            raise WeightsError(file, [(not is_zip and _other_content(file, head)) or _why_not(error)]) from error


def _other_content(file: str, head: bytes) -> str:
    """Returns the reason to refuse a file that torch.save did not write, by what it is; empty for others."""
    if head[8:9] == b"{":
        return "it is a safetensors file: give it a name that ends with .safetensors"
    names = _plain_pickle(file)
    if names is None:
        return ""
    what = "it is a plain pickle, no file of torch.save"
    if asked := sorted(names - {name for _, name in numpy_pickles.allowed()}):
        what += f"; reading it would run code: it asks for {', '.join(f'{first_line(name):.60}' for name in asked[:3])}, and only tensors and plain values are read"
    return f"{what}; {_REMEDY}"


def _plain_pickle(file: str) -> set[str] | None:
    """Returns what a pickle of something else than torch's magic number would import; None for other files. Nothing of it is run."""
    names: set[str] = set()
    memo: dict[int, str] = {}
    texts, empty = collections.deque(["?", "?"], maxlen=2), True
    with open(file, "rb") as opened:
        try:
            for code, value, _ in itertools.islice(pickletools.genops(opened), _OPERATIONS):
                if code.name in ("GLOBAL", "INST"):
                    names.add(str(value).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.add(".".join(texts))
                elif code.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                    memo[len(memo) if value is None else value] = texts[-1]
                elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                    texts.append(memo.get(value or 0, "?"))
                elif isinstance(value, str):
                    texts.append(value)
                elif value == _MAGIC:
                    return None
                empty = empty and code.name in ("PROTO", "FRAME", "STOP")
        except (ValueError, MemoryError, OverflowError):  # it is no pickle, or damaged
            return names or None
    return None if empty else names


def _why_not(error: Exception) -> str:
    """Returns why torch refused a file, in one line."""
    text = str(error)
    if isinstance(error, numpy_pickles.NotPlainError):
        return f"{text}; only numbers and texts of numpy are read: {_REMEDY}"
    match = re.search(r"GLOBAL (\S+)", text)
    if match:
        return f"reading it would run code: it asks for {match[1]}, and only tensors and plain values are read; {_REMEDY}"
    if "TorchScript" in text:
        return "it is a TorchScript program, which is not run; save the state_dict() of its module instead"
    if isinstance(error, pickle.UnpicklingError):  # torch's reason stands between advice on running it anyway
        text = text.partition("\n\nCheck the documentation")[0].rpartition("\n\n")[2]
    reason = first_line(text)
    if " " not in reason or reason.startswith(("Unsupported operand", "Invalid magic number")):
        reason = "its records do not fit together"
    return f"it is damaged, or no file of torch.save: {reason.partition('. ')[0]:.120}: get the file again"


def _state_dict(loaded, file: str) -> tuple[Mapping, list[str]]:
    """Returns the state dict in the contents of a file, the innermost of those in each other, and notes on others beside it."""
    import torch

    if not isinstance(loaded, Mapping):
        raise WeightsError(file, [f"it holds a {type(loaded).__name__}, not a state dict"])
    state, path = loaded, ""
    beside: dict = {}
    for _ in range(_DEPTH):
        key = next((key for key in CONTAINERS if isinstance(state.get(key), Mapping)), None)
        if key is None:
            break
        # V-JEPA 2's encoder beside its average is no surprise: its authors evaluate the average.
        beside |= {name: value for name, value in state.items() if name != key and (key, name) != ("target_encoder", "encoder")}
        state, path = state[key], f"{path} under {key!r}"
    values = (torch.Tensor, numpy_pickles.Array)
    if not any(isinstance(value, values) for value in state.values()) and (state or not path):
        expected = f"expected tensors, or a state dict under {', '.join(CONTAINERS)}"
        shown = ", ".join(f"{key!r:.40}" for key in list(state)[:8]) or "nothing"
        raise WeightsError(file, [f"it holds no state dict{path}, only {shown}: {expected}"])
    names = [repr(key) for key in state if not isinstance(key, str)]
    if names:
        raise WeightsError(file, [f"its state dict has the key {name}, which is no string" for name in names])
    others = [name for name, value in beside.items() if _is_alike(value, state)]
    return state, [
        f"the weights{path} are read; the file holds others of the same model under {name!r}: to take those, save them alone"
        for name in others
    ]


def _is_alike(value, state: Mapping) -> bool:
    """Returns True for another state dict of the same model: half the names of one are in the other, but for prefixes of wrappers."""
    import torch

    def names(tensors: Mapping) -> set[str]:
        kinds = (torch.Tensor, numpy_pickles.Array)
        return {str(key).removeprefix("module.") for key, tensor in tensors.items() if isinstance(tensor, kinds)}

    return isinstance(value, Mapping) and 2 * len(names(value) & names(state)) > len(names(state))


def _array(value) -> np.ndarray:
    """Returns a tensor's values. Raises: TypeError, ValueError, RuntimeError or MemoryError if numpy cannot hold them."""
    import torch

    if isinstance(value, numpy_pickles.Array):
        return value.value
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"it is of type {type(value).__name__}, not a tensor")
    if str(value.dtype).startswith("torch.float8"):
        name = str(value.dtype).removeprefix("torch.")
        raise TypeError(f"it is {name}, whose scales are not among the weights: get them in float32 or bfloat16")
    tensor = value.detach()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise TypeError(f"it is a tensor of {tensor.layout} on {tensor.device} ({tensor.dtype}), not a plain one")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a few bytes could claim all of the memory there is
        raise ValueError(f"it claims {tensor.nbytes} bytes of the {tensor.untyped_storage().nbytes()} that the file holds for it")
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(bfloat16).copy()
    return np.array(tensor.numpy(), order="C")
