"""Reading evidence from the front, byte by byte."""

from strongroom.base.errors import FormatError


class ByteReader:
    """Bytes taken from the front, never more than there are.

    Args:
        data: The bytes.
        what: What they are, for errors.
    """

    def __init__(self, data: bytes, *, what: str) -> None:
        self._data = data
        self._what = what
        self._offset = 0

    def take(self, size_bytes: int) -> bytes:
        """Return the next bytes.

        Raises:
            FormatError: There are not so many.
        """
        part = self._data[self._offset : self._offset + size_bytes]
        if len(part) != size_bytes:
            raise FormatError(f"{self._what} is truncated")
        self._offset += size_bytes
        return part

    def big_endian(self, size_bytes: int) -> int:
        """Return the next bytes as a number, the highest byte first.

        Raises:
            FormatError: There are not so many.
        """
        return int.from_bytes(self.take(size_bytes), "big")

    def rest(self) -> bytes:
        """Return what is left, without taking it."""
        return self._data[self._offset :]

    @property
    def at_end(self) -> bool:
        """Whether everything was taken."""
        return self._offset == len(self._data)

    def finish(self) -> None:
        """Refuse bytes that are left.

        Raises:
            FormatError: There are some.
        """
        if not self.at_end:
            raise FormatError(f"bytes follow the end of {self._what}")
