"""What an ONNX file refers to outside itself, found before anything runs it.

onnxruntime would read such files from wherever the command happens to run, and the digest of the file alone would not
notice that they changed. An ONNX file is a Protocol Buffers message; only its nesting is walked, no tensor is read.
"""

from collections.abc import Iterator

# The messages through which a tensor can be reached: field number -> the message in it, after onnx.proto.
NESTED: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of TensorProto
KEY, VALUE = 1, 2  # fields of an entry of its external_data
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is written


def external_file(data: bytes) -> str | None:
    """The name of a file outside the ONNX file `data` that its tensors lie in; None where there is none.

    Raises:
        ValueError: `data` is not a message of Protocol Buffers.
    """
    todo = [("ModelProto", memoryview(data))]
    while todo:
        kind, message = todo.pop()
        if kind == "TensorProto":
            location = _location(message)
            if location is not None:
                return location
            continue
        for number, value in _fields(message):
            if number in NESTED[kind] and isinstance(value, memoryview):
                todo.append((NESTED[kind][number], value))
    return None


def _location(tensor: memoryview) -> str | None:
    """Where the tensor's values lie, None where they are in it."""
    is_external, location = False, "?"
    for number, value in _fields(tensor):
        if number == DATA_LOCATION:
            is_external = bool(value)
        if number == EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(text).decode(errors="replace") for key, text in _fields(value) if not _is_int(text)}
            location = entry.get(VALUE, "?") if entry.get(KEY) == "location" else location
    return location if is_external else None


def _is_int(value: object) -> bool:
    return isinstance(value, int)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field; a value that is text, bytes or a message comes as a view of its bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind not in (FIXED64, BYTES, FIXED32):
            raise ValueError("not a message of Protocol Buffers")
        size, at = _varint(message, at) if kind == BYTES else (8 if kind == FIXED64 else 4, at)
        if at + size > len(message):
            raise ValueError("the file is cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, lowest first, and where the next byte is."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("the file is cut short")
