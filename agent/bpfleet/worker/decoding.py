"""Decoders at work: a field that names one gets a column more, with what the decoder makes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bpfleet.layout import Leaf
from bpfleet.reading.columns import Array
from bpfleet.schema import Field, Meaning
from bpfleet.spec import Collector, Decoder
from bpfleet.wire import Column

__all__ = ["DecodedColumn", "decoded_columns", "decoder_names"]

log = logging.getLogger("bpfleet")


class DecodedColumn:
    """What `decoder` makes of the column at `index`."""

    def __init__(self, index: int, name: str, decoder: Decoder) -> None:
        assert decoder.decode is not None  # what takes an argument has been given it
        made = Field(name, decoder.ctype, Meaning.LABEL)
        self.column = Column(name, "value", made.base, made.count, made.meaning.value, "", decoder.help)
        self._index, self._decoder, self._decode = index, decoder, decoder.decode
        self._told = False

    def make(self, columns: Sequence[Array]) -> tuple[Array, int]:
        """The new column for these; and how many rows are empty, as the decoder failed."""
        source = columns[self._index]
        shape = (len(source), *self.column.dtype.shape)
        try:
            # Each value once: a decoder may be slow, and values come again and again.
            one_axis = source.ndim == 1 and source.dtype.kind != "V"
            values, back = np.unique(source, return_inverse=True) if one_axis else (source, slice(None))
            decoded = np.asarray(self._decode(values))
            if decoded.dtype.kind == "U":
                decoded = np.char.encode(decoded, "utf-8", "replace")
            made: Array = decoded.astype(self.column.dtype.base, casting="same_kind")[back]
            if made.shape != shape:
                raise ValueError(f"it made {made.shape} of {source.shape}, {shape} is wanted")
        except Exception as error:
            if not self._told:
                self._told = True
                log.error(
                    "decoder %r failed on column %r: %s: %s; such rows stay empty, and are counted",
                    self._decoder.name,
                    self.column.name,
                    type(error).__name__,
                    error,
                )
            return np.zeros(shape, self.column.dtype.base), len(source)
        return made, 0


def decoder_names(spec: Collector) -> set[str]:
    """The decoders that a collector's fields name."""
    fields = [field for one in spec.maps for field in (*one.key, *one.value)]
    words = [said for one in spec.words.values() for said in one.fields.values()]
    return {name for name in (*_named(fields), *(said.decode for said in words)) if name}


def _named(fields: Sequence[Field]) -> Iterator[str]:
    for field in fields:
        yield field.decode
        yield from _named(field.fields)


def decoded_columns(
    leaves: Sequence[Leaf], columns: Sequence[Column], decoders: Mapping[str, Decoder]
) -> list[DecodedColumn]:
    """One for each leaf that names a decoder, called FIELD_DECODER (without the decoder's argument)."""
    taken = {column.name for column in columns}
    found = []
    for index, leaf in enumerate(leaves):
        if leaf.decode:
            name = f"{columns[index].name}_{leaf.decode.partition(':')[0]}"
            while name in taken:
                name += "_"
            taken.add(name)
            found.append(DecodedColumn(index, name, decoders[leaf.decode]))
    return found
