"""numpy's file format, read from files that nobody vouches for: nothing is run, and nothing is allocated that the file
does not hold."""

import io
import math
import tokenize
import warnings
from typing import BinaryIO

import numpy as np

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST = 16 << 10  # bytes read for a header; numpy itself refuses to parse one of more than 10,000


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, in column order, dtype) of the npy file at the start of `file`, which is left at the first element.

    `file` must be able to seek. Nothing is allocated or run. `ValueError` for whatever is no such header, holds pickled
    objects, or has a negative size; numpy's parser itself raises half a dozen kinds of errors.
    """
    start = file.tell()
    head = io.BytesIO(file.read(_LONGEST))  # the parser asks for as many bytes as the header claims to have: up to 4 GB
    try:
        version = np.lib.format.read_magic(head)
        if version not in _READERS:
            raise ValueError(f"npy version {version}, expected 1.0 or 2.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers as Python 2 wrote them, and of odd escapes in a damaged header
            shape, fortran_order, dtype = _READERS[version](head)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"no npy header: {error!s:.200}") from None
    file.seek(start + head.tell())
    if dtype.hasobject:
        raise ValueError(
            "it holds pickled Python objects, which are never loaded since they can run code; save plain arrays, and "
            "text as a numpy string array"
        )
    if not dtype.itemsize:  # any number of such elements takes no byte of a file, and numpy gives each at least one
        raise ValueError(f"elements of no size ({dtype.str})")
    if min(shape, default=0) < 0:
        raise ValueError(f"negative size in shape {shape}")
    return shape, fortran_order, dtype


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The array of the npy file that is all of `file`: `size` bytes from its start to its end.

    `ValueError` as from `read_header`, and where the header asks for more or for fewer bytes than there are.
    """
    shape, fortran_order, dtype = read_header(file)
    wanted = math.prod(shape) * dtype.itemsize  # Python's integers: no declared shape wraps around
    held = size - file.tell()
    if wanted > held:
        raise ValueError(f"it declares shape {shape} of {dtype.str}, more than its {max(held, 0)} bytes of data")
    content = file.read()  # to the end, where a zip's checksum is compared
    if len(content) != wanted:
        raise ValueError(f"it holds {len(content)} bytes of data, its header says {wanted}")
    array = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")
