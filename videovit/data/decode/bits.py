"""Reading of single bits, as the headers of video codecs are written."""

from __future__ import annotations


class Bits:
    """Reads a header bit by bit; beyond its end there are zeros.

    Args:
        data: bytes of the header.
    """

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """The number in the next `count` bits."""
        self._left -= count
        number = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return number & (1 << count) - 1

    def read_golomb(self) -> int:
        """The next number, coded as z zeros, a one, and z more bits (Exp-Golomb).

        Raises:
            ValueError: the header has no more numbers.
        """
        zeros = self._left - (self._value & (1 << max(self._left, 0)) - 1).bit_length()
        # All that is left are zeros.
        if zeros >= self._left:
            raise ValueError("the header ends too early")
        return self.read(2 * zeros + 1) - 1

    def read_signed(self) -> int:
        """The next number, coded as 0, 1, -1, 2, -2, ...

        Raises:
            ValueError: the header has no more numbers.
        """
        number = self.read_golomb()
        return (number + 1) // 2 if number % 2 else -(number // 2)
