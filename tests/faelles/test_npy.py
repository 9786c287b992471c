"""The quick codec writes what numpy and Flower write, and reads whatever comes as Flower's own reader does."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from faelles.npy import KIND, QuickArray, QuickRecords, array_record, from_flower, to_flower

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
KINDS = ("<f4", ">f4", "f8", "f2", "i4", "i8", "c8", "b1", "S4", "U4", "M8[s]", [("cpr", "f4")])
WHOLE = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(array: NDArray[Any], version: int = 1, **header: Any) -> bytes:
    """Write an array as numpy does, or with another header."""
    if version == 1 and not header:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return buffer.getvalue()
    fields = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    text = (", ".join(f"{key!r}: {value!r}" for key, value in (fields | header).items())).join(("{", ", }")).encode()
    size = 2 if version == 1 else 4  # bytes that hold the length of the header
    text = text.ljust(-(-(9 + size + len(text)) // 64) * 64 - 9 - size) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(size, "little") + text + array.tobytes()


def carried(data: bytes, shape: tuple[int, ...] = (2, 3), stype: str = KIND, dtype: str = "float32") -> Array:
    return Array(dtype=dtype, shape=shape, stype=stype, data=data)


def outcome(read: Callable[[], object]) -> tuple[object, ...]:
    """Tell what a reader makes of bytes: every bit of an array, or that it refuses."""
    try:
        found = read()
    except Exception as error:
        return ("refused", type(error).__name__)
    if not isinstance(found, np.ndarray):
        return ("something else", type(found).__name__)
    if found.dtype.hasobject:
        return "objects", found.shape
    return found.dtype.str, found.shape, found.tobytes()


def check_alike(array: Array) -> tuple[object, ...]:
    """Read an array with both readers."""
    ours, theirs = outcome(lambda: from_flower(array)), outcome(lambda: Array.numpy(array))
    assert ours == theirs
    return ours


# Writing


@given(FLOATS)
def test_what_is_written_is_byte_for_byte_numpys_and_flowers(array: NDArray[np.float32]) -> None:
    ours, theirs = to_flower(array), Array(array)
    assert ours.data == saved(array) == theirs.data
    assert (ours.dtype, tuple(ours.shape), ours.stype) == (theirs.dtype, tuple(theirs.shape), theirs.stype)
    assert ours == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_of_every_other_type(kind: Any) -> None:
    array = np.zeros((2, 3), kind)
    assert to_flower(array).data == Array(array).data
    assert to_flower(array) == Array(array)


@given(FLOATS)
def test_so_it_is_of_arrays_that_do_not_lie_in_a_row(array: NDArray[np.float32]) -> None:
    for view in (array.T, array[..., ::-1] if array.ndim else array, np.asfortranarray(array)):
        assert to_flower(view) == Array(view)


@given(st.dictionaries(st.text(max_size=8), FLOATS, max_size=4))
def test_a_record_is_flowers_in_the_same_order(arrays: dict[str, NDArray[np.float32]]) -> None:
    theirs = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    for ours in (array_record(arrays), array_record(arrays, QuickArray)):
        assert list(ours) == list(theirs)
        assert all(ours[name].data == theirs[name].data for name in theirs)
        assert all(ours[name].numpy().tobytes() == array.tobytes() for name, array in arrays.items())


def test_quick_records_show_what_flowers_show() -> None:
    arrays, metrics = {"arrays": array_record({"a": WHOLE})}, {"metrics": MetricRecord({"weight": 2.0})}
    ours, theirs = QuickRecords(arrays, metrics), RecordDict({**arrays, **metrics})
    assert list(ours.items()) == list(theirs.items())
    assert ours.array_records == dict(theirs.array_records) == arrays
    assert ours.metric_records == dict(theirs.metric_records) == metrics
    assert dict(ours.config_records) == {}


# Reading


def test_headers_are_made_as_numpy_makes_them() -> None:
    assert saved(WHOLE, fortran_order=False) == saved(WHOLE)  # what is tested with is worth something


@given(FLOATS)
def test_what_either_writes_comes_back_bit_for_bit(array: NDArray[np.float32]) -> None:
    for one in (to_flower(array), Array(array), QuickArray(array)):
        back = from_flower(one)
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tobytes() == array.tobytes()
        check_alike(one)
    assert QuickArray(array).numpy().tobytes() == array.tobytes()


def test_a_view_cannot_be_written_to() -> None:
    for back in (from_flower(to_flower(WHOLE)), from_flower(Array(WHOLE)), QuickArray(WHOLE).numpy()):
        with pytest.raises(ValueError, match="read-only"):
            back[0, 0] = 1


def test_who_reads_a_quick_array_leaves_what_it_was_made_of_as_it_was() -> None:
    array = WHOLE.copy()
    with pytest.raises(ValueError, match="read-only"):
        QuickArray(array).numpy()[:] = 7
    array[0, 0] = 9  # its owner may still write to it
    assert array.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_and_order_is_read_as_flower_reads_it(kind: Any, order: Any) -> None:
    check_alike(carried(saved(np.zeros((2, 3), kind, order=order))))
    check_alike(carried(saved(np.ones((2, 3), kind, order=order)[:1])))


def test_an_array_in_the_other_order_is_not_mixed_up() -> None:
    other = np.asfortranarray(WHOLE)
    assert b"'fortran_order': True" in saved(other)
    np.testing.assert_array_equal(from_flower(carried(saved(other))), WHOLE)


HEADERS: dict[str, dict[str, Any]] = {
    "version 2": {"version": 2}, "version 3": {"version": 3}, "other order": {"fortran_order": True},
    "huge": {"shape": (2**50,)}, "huge product": {"shape": (2**20, 2**20, 2**20)}, "ten digits": {"shape": (10**10,)},
    "negative": {"shape": (-1,)}, "negatives": {"shape": (-2, -3)}, "smaller": {"shape": (2, 2)},
    "empty": {"shape": (0,)}, "scalar": {"shape": ()}, "no whole number": {"shape": (2.0, 3)},
    "truth": {"shape": (True, 6)}, "text": {"shape": "6"}, "list": {"shape": [2, 3]},
    "another shape": {"shape": (3, 2)}, "longer": {"shape": (7,)}, "objects": {"descr": "|O"},
    "other bytes": {"descr": ">f4"}, "wider": {"descr": "<f8"}, "integers": {"descr": "<i4"},
    "no order": {"fortran_order": 0}, "more": {"more": 1}, "no type": {"descr": "x"},
    "words": {"descr": [("cpr", "<f4")]},
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_not_ours_is_read_as_flower_reads_it(name: str) -> None:
    data = saved(WHOLE, **HEADERS[name])
    for shape in ((2, 3), (7,)):
        check_alike(carried(data, shape))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no array", b"\x93NUMPY", b"\x93NUMPY\x01\x00", saved(WHOLE)[:-1], saved(WHOLE) + b"x", saved(WHOLE)[:40],
        saved(WHOLE)[:128], b"PK\x03\x04" + saved(WHOLE), pickle.dumps(WHOLE), b"x" + saved(WHOLE)[1:],
        saved(WHOLE) + saved(WHOLE), b"\x00" * 200, saved(WHOLE)[:8] + b"\xff\xff" + saved(WHOLE)[10:],
        saved(WHOLE)[:8] + b"\x00\x00" + saved(WHOLE)[10:], saved(WHOLE)[:8] + b"\x77\x00" + saved(WHOLE)[10:],
        saved(WHOLE).replace(b" \n", b"\n\n"), saved(WHOLE).replace(b"(2, 3)", b"(2,3) "),
        saved(WHOLE).replace(b"(2, 3)", b"(02,3)"), saved(WHOLE).replace(b"(2, 3)", b"(6,)  "),
        saved(WHOLE).replace(b"(2, 3)", b"(3, 2)"), saved(WHOLE).replace(b"(2, 3)", b"(-2,3)"),
        saved(WHOLE).replace(b"(2, 3)", b"(0, 3)"), saved(WHOLE).replace(b"(2, 3)", b"(6)   "),
        saved(WHOLE).replace(b"(2, 3)", b"(,2,3)"), saved(WHOLE).replace(b"(2, 3)", b"(1_2,)"),
        saved(WHOLE).replace(b"(2, 3)", b"(2L,3)"), saved(WHOLE).replace(b"False", b"True "),
        saved(WHOLE).replace(b"'<f4'", b"'|O8'"), saved(WHOLE).replace(b"(2, 3)", "(٢, 3)".encode()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stype", [KIND, "pickle", "", "torch"])
def test_broken_bytes_are_read_as_flower_reads_them(data: bytes, stype: str) -> None:
    for shape in ((2, 3), (2**31 - 1,), ()):
        for dtype in ("float32", "float64", "object"):
            check_alike(carried(data, shape, stype, dtype))


def test_no_pickle_is_opened() -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            raise AssertionError("opened")

    objects = io.BytesIO()
    np.save(objects, np.array([1, None], dtype=object), allow_pickle=True)
    attack = saved(WHOLE, descr="|O", shape=(1,))[:128] + b"cos\nsystem\n(S'false'\ntR."
    for data in (objects.getvalue(), attack, pickle.dumps([1])):
        assert check_alike(carried(data))[0] == "refused"


@settings(max_examples=300)
@given(st.data())
def test_spoiled_bytes_never_become_another_array(data: st.DataObject) -> None:
    array = data.draw(FLOATS)
    spoiled = bytearray(saved(array))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(spoiled) - 1)) if spoiled else 0
        how = data.draw(st.sampled_from(["flip", "cut", "fill", "header"]))
        if how == "flip" and spoiled:
            spoiled[place] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del spoiled[place:]
        elif how == "fill":
            spoiled[place:place] = data.draw(st.binary(max_size=4))
        elif len(spoiled) > 80:  # most of what matters stands here
            spoiled[data.draw(st.integers(6, 80))] = data.draw(st.sampled_from(b"0123456789,() -'<>f48TF\n"))
    check_alike(carried(bytes(spoiled), array.shape))


@given(FLOATS, FLOATS)
def test_an_array_is_what_its_bytes_say_and_not_what_its_shape_says(
    array: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    assert check_alike(carried(saved(array), other.shape))[1] == array.shape
