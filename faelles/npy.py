"""Write and read float32 arrays as Flower carries them, without numpy's own cost of a file for each.

A round of all municipalities is some thousand small arrays. What is written is byte for byte what `numpy.save` writes;
what is read otherwise than that is left to Flower, whose reader knows the whole format.
"""

import functools
import io
import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from faelles.errors import WireError

R = TypeVar("R", ArrayRecord, ConfigRecord, RecordDict)
KIND = "numpy.ndarray"  # Flower's name for this format
_MAGIC = b"\x93NUMPY\x01\x00"
_PREFIX = len(_MAGIC) + 2  # the length of the header follows
_HEADER = re.compile(
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(((?:[0-9]{1,9}, ?)*(?:[0-9]{1,9})?)\), \} *\n"
)


def to_flower(array: NDArray[np.generic]) -> Array:
    """Render an array as Flower's; the same bytes that Flower makes."""
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        return Array(array)
    made = Array.__new__(Array)  # its constructor takes longer to find out what it was given than all of this
    data = b"".join((_header(array.shape), array.data))
    made.__dict__.update(dtype="float32", shape=array.shape, stype=KIND, data=data)
    return made


def array_record(arrays: Mapping[str, NDArray[np.generic]], render: Callable[..., Array] = to_flower) -> ArrayRecord:
    """Render named arrays as Flower's record of them."""
    return filled(ArrayRecord(), {name: render(array) for name, array in arrays.items()})


def filled(record: R, values: Mapping[str, object]) -> R:
    """Fill one of Flower's records with values of ours, whose types are right.

    Past its setter: that looks at a value for longer than all else takes that is done with it, and a round of all
    municipalities sets thousands.
    """
    record.__dict__["_data"].update(values)
    return record


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a record, whoever made it.

    Raises:
        WireError: Something in it is no array; the text holds nothing of it.
    """
    try:
        arrays = {name: from_flower(array) for name, array in record.items()}
        readable = all(isinstance(array, np.ndarray) for array in arrays.values())  # bytes of a zip become no array
    except Exception:
        # Whatever numpy makes of foreign bytes, the sender learns only that they were not an array.
        readable = False
    if not readable:
        raise WireError("arrays: expected numpy arrays, something that cannot be read came")
    return arrays


def from_flower(array: Array) -> NDArray[np.float32]:
    """Read an array that Flower carried, whoever made it; it may be a view that cannot be written to."""
    if type(array) is QuickArray:
        return array.numpy()
    data = array.data
    start = _PREFIX + int.from_bytes(data[len(_MAGIC) : _PREFIX], "little")
    shape = _shape(data[:start]) if array.stype == KIND and start <= 128 else None
    if shape is None or len(data) != start + 4 * math.prod(shape):
        found: NDArray[np.float32] = Array.numpy(array)  # or of another type, which whoever needs float32 refuses
        return found
    return np.frombuffer(data, dtype=np.float32, offset=start).reshape(shape)


class QuickArray(Array):
    """Hand an array to code of Flower's in this process, which reads its numbers and hardly ever its bytes."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        held = array
        if held.flags.writeable:
            held = array.view()
            held.flags.writeable = False
        self.__dict__.update(dtype="float32", shape=array.shape, stype=KIND, _held=held)

    @property
    def data(self) -> bytes:  # type: ignore[override]  # a field of Flower's that is made when it is read
        """Render the array, as `numpy.save` does."""
        return to_flower(self.__dict__["_held"]).data

    def numpy(self) -> NDArray[np.float32]:
        """Return the array, which cannot be written to."""
        held: NDArray[np.float32] = self.__dict__["_held"]
        return held


class QuickRecords(RecordDict):
    """Hand an array record and a metric record to code of Flower's in this process, which asks for each kind often.

    Flower's own makes a dictionary each time that it is asked, through which the records can be replaced; nobody does.
    """

    def __init__(self, arrays: Mapping[str, ArrayRecord], metrics: Mapping[str, MetricRecord]) -> None:
        super().__init__()
        self.__dict__.update(_arrays=arrays, _metrics=metrics)
        filled(self, {**arrays, **metrics})

    @property
    def array_records(self) -> Mapping[str, ArrayRecord]:  # type: ignore[override]
        """Return the array record by its name."""
        found: Mapping[str, ArrayRecord] = self.__dict__["_arrays"]
        return found

    @property
    def metric_records(self) -> Mapping[str, MetricRecord]:  # type: ignore[override]
        """Return the metric record by its name."""
        found: Mapping[str, MetricRecord] = self.__dict__["_metrics"]
        return found


@functools.lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@functools.lru_cache(maxsize=1024)
def _shape(header: bytes) -> tuple[int, ...] | None:
    """Read the shape of a header that `_header` would write just so, and of no other."""
    found = _HEADER.fullmatch(header[_PREFIX:])
    if found is None:
        return None
    shape: tuple[int, ...] = tuple(int(part) for part in found[1].decode().split(",") if part.strip())
    return shape if shape and 0 not in shape and _header(shape) == header else None
