"""One row of a terminal: its columns, what is written over them, and the text with its colours.

Knows nothing of the rows beside it, nor of where the cursor is. Pure.
"""

from __future__ import annotations

# One column: its text, and the colours. The right half of a wide character has no text.
Cell = tuple[str, str]
BLANK: Cell = (" ", "")


class Row:
    """One row of cells."""

    __slots__ = ("cells", "is_plain", "wraps")

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        # Written once from left to right; and: the line goes on in the next row.
        self.is_plain = True
        self.wraps = False

    def put(self, column: int, cells: list[Cell]) -> None:
        """Write over what is there, from a column on; blanks fill what is between."""
        own = self.cells
        if column > len(own):
            own.extend([BLANK] * (column - len(own)))
        elif column < len(own):
            self.is_plain = False
            if not own[column][0] and column:
                own[column - 1] = BLANK  # half of a wide character is none
        end = column + len(cells)
        if end < len(own) and not own[end][0]:
            own[end] = BLANK
        own[column:end] = cells

    def erase(self, begin: int, end: int | None = None) -> None:
        """Blank the columns from `begin` up to `end`, or to the end."""
        self.is_plain = False
        if end is None:
            del self.cells[begin:]
        else:
            self.cells[begin:end] = [BLANK] * (min(end, len(self.cells)) - begin)

    def render(self, up_to: int = 0) -> str:
        """Return its text with the colours, without blanks at the end, but with `up_to` columns."""
        end = len(self.cells)
        while end > up_to and self.cells[end - 1] == BLANK:
            end -= 1
        text, style = [], ""
        for char, wanted in [*self.cells[:end], *[BLANK] * (up_to - end)]:
            if wanted != style:
                text.append(("\x1b[0m" if style else "") + wanted)
                style = wanted
            text.append(char)
        return "".join([*text, "\x1b[0m" if style else ""])

    @property
    def is_blank(self) -> bool:
        return all(cell == BLANK for cell in self.cells)
