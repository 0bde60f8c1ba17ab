"""The header of numpy's file format, read from files that nobody vouches for."""

import tokenize
from typing import BinaryIO

import numpy as np

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, in column order, dtype) of the npy file at the start of `file`, which is left at the first element.

    Nothing is allocated or run. `ValueError` for whatever is no such header, holds pickled objects, or has a negative
    size; numpy's parser itself raises half a dozen kinds of errors.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"npy version {version}, expected 1.0 or 2.0")
        shape, fortran_order, dtype = _READERS[version](file)
    except (TypeError, SyntaxError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"no npy header: {error}") from None
    if dtype.hasobject:
        raise ValueError(
            "it holds pickled Python objects, which are never loaded since they can run code; save plain arrays, and "
            "text as a numpy string array"
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"negative size in shape {shape}")
    return shape, fortran_order, dtype
