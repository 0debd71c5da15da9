"""Weights of Caffe2, as SlowFast's model zoo has them: a pickle of NumPy arrays under Caffe2's names of blobs.

A pickle is a program, and can call whatever it names. The reader here knows only what such files need: the names with
which NumPy pickles arrays, in the place of which it puts classes of its own that keep bytes and call nothing.

Names (P is empty for the slow pathway and `t_` for the fast one):

    Caffe2                                   here
    Pconv1, Pres_conv1_bn                    s1.pathway{p}_stem.conv, bn       (X3D: conv1_xy -> conv_xy)
    Pres{s}_{i}_branch1, branch2a            s{s}.pathway{p}_res{i}.branch1, branch2.a
    res{s}_{i}_branch2b_bn_fc1               s{s}.pathway0_res{i}.branch2.se.fc1
    nonlocal_conv{s}_{i}_theta, bn           s{s}.pathway0_nonlocal{i}.conv_theta, bn
    t_pool1_subsample, t_res{s}_{i}_branch2c_bn_subsample    s1_fuse.conv_f2s, s{s}_fuse.conv_f2s
    conv_5, lin_5, pred                      head.conv_5, head.lin_5, head.projection
    ..._w, _b;  _bn_s, _bn_b, _bn_rm, _bn_riv                weight, bias;  weight, bias, running_mean, running_var
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]

_KINDS = ("f2", "f4", "f8", "i4", "i8", "u1")
_NOT_WEIGHTS = re.compile(r"momentum|(^|_)lr($|_)|model_iter")

_LAST = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}
_MODULES = (
    (r"conv1(_xy)?", r"s1.pathway{p}_stem.conv\1"),
    (r"res_conv1", r"s1.pathway{p}_stem"),
    (r"pool1_subsample", r"s1_fuse"),
    (r"res(\d)_\d+_branch2c_bn_subsample", r"s\1_fuse"),
    (r"nonlocal_conv(\d)_(\d+)", r"s\1.pathway{p}_nonlocal\2"),
    (r"nonlocal_conv(\d)_(\d+)_(theta|phi|g|out)", r"s\1.pathway{p}_nonlocal\2.conv_\3"),
    (r"res(\d)_(\d+)_branch1", r"s\1.pathway{p}_res\2.branch1"),
    (r"res(\d)_(\d+)_branch2([abc])", r"s\1.pathway{p}_res\2.branch2.\3"),
    (r"res(\d)_(\d+)_branch2b_bn_fc([12])", r"s\1.pathway{p}_res\2.branch2.se.fc\3"),
    (r"(conv|lin)_5", r"head.\1_5"),
    (r"pred", r"head.projection"),
)
"""Pattern of a whole name without its `t_`, `_bn` and last part -> the module; patterns exclude each other."""

_PARTS = re.compile(r"(t_)?(.*?)(_bn)?_(w|b|s|rm|riv)")
# Of these the norm is called `bn`, of all others by the name of the convolution and `_bn`.
_OWN_NORM = re.compile(r"s1\.pathway\d_stem|s\d_fuse|s\d\.pathway\d_nonlocal\d+")


def is_caffe2(names: Iterable[str]) -> bool:
    """Whether these are names of Caffe2's blobs."""
    return any(_renamed(name) != name for name in names)


def from_caffe2(state: State) -> State:
    """Names of this project, and convolutions with all their axes; unknown names stay as they are."""
    return {new: _with_axes(new, tensor) for name, tensor in state.items() for new in [_renamed(name)]}


def _renamed(name: str) -> str:
    parts = _PARTS.fullmatch(name)
    if parts is None:
        return name
    fast, stem, norm, last = parts.groups()
    for pattern, module in _MODULES:
        if match := re.fullmatch(pattern, stem):
            new = match.expand(module).replace("{p}", "1" if fast else "0")
            if norm:
                new += ".bn" if _OWN_NORM.fullmatch(new) else "_bn"
            elif new.endswith("_fuse"):
                new += ".conv_f2s"
            return f"{new}.{_LAST[last]}"
    return name


def _with_axes(name: str, tensor: Tensor) -> Tensor:
    """Layers that are linear in Caffe2 and convolutions here get axes of length 1."""
    is_conv = re.search(r"\.se\.fc[12]\.weight$|^head\.(conv|lin)_5\.weight$", name)
    return tensor[(...,) + (None,) * (5 - tensor.dim())] if is_conv and tensor.dim() < 5 else tensor


# Reading


class _Calm:
    """Base of what stands in for NumPy's names; a pickle cannot set anything on it."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("has state where none belongs")


class _Kind(_Calm):
    """numpy.dtype: kind and size, and the order of bytes, which its state says."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or code not in _KINDS:
            raise pickle.UnpicklingError(f"has an array of {str(code)[:20]!r}, expected one of {', '.join(_KINDS)}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|"):
            raise pickle.UnpicklingError("has an unknown type of numbers")
        self.order = state[1]


class _Array(_Calm):
    """numpy.ndarray, and the function that makes an empty one: shape and bytes come with its state."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray[tuple[int, ...], np.dtype[Any]] = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("has an array without its five parts")
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("has an array of an unknown type or shape")
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise pickle.UnpicklingError("has an array with a shape that is not of whole numbers")
        # Python 2 wrote bytes as text of 256 letters.
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes):
            raise pickle.UnpicklingError("has an array without bytes")
        flat = np.frombuffer(raw, dtype=np.dtype(kind.order + kind.code))
        self.values = flat.reshape(shape, order="F" if is_fortran else "C")


class _Encoded(_Calm):
    """_codecs.encode, with which Python 3 writes bytes for Python 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError(f"has text in the encoding {str(encoding)[:20]!r}")
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Encoded,
}


class _Reader(pickle._Unpickler):  # in Python, whose memory grows with the file and not with the numbers in it
    def find_class(self, module: str, name: str) -> Any:
        """What stands in for a name; nothing is imported."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module[:60]}.{name[:60]}, expected NumPy arrays alone")
        return _ALLOWED[module, name]

    def get_extension(self, code: int) -> Any:
        """Numbers that stand for registered names are refused."""
        raise pickle.UnpicklingError(f"names the registered object {code}, expected NumPy arrays alone")


def read_caffe2(data: bytes) -> State:
    """The arrays of a file, under Caffe2's names; momenta, rate and step are left out.

    Args:
        data: the file.

    Raises:
        pickle.UnpicklingError: something other than NumPy arrays of numbers under `blobs`.
        Exception: what Python raises on damaged pickles: EOFError, ValueError, IndexError and others.
    """
    content = _Reader(io.BytesIO(data), encoding="latin1").load()
    blobs = content.get("blobs") if isinstance(content, dict) else None
    if not isinstance(blobs, dict):
        raise pickle.UnpicklingError("has no arrays under the key blobs")
    state = {}
    for name, array in blobs.items():
        if not isinstance(name, str) or not isinstance(array, _Array):
            raise pickle.UnpicklingError(f"has something other than an array: {type(array).__name__}")
        if not _NOT_WEIGHTS.search(name):
            own = np.ascontiguousarray(array.values.astype(array.values.dtype.newbyteorder("=")))
            state[name] = torch.from_numpy(own)
    return state
