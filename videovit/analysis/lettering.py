"""Fonts for names of any script in pictures; what no installed font can show is replaced, and said in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager

from videovit.messages import printable

logger = logging.getLogger("videovit")

FIRST = "DejaVu Sans"  # comes with Matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew
# Common fonts of other scripts; those that are installed are used, in this order.
OTHERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Yu Gothic",
    "Meiryo", "MS Gothic", "IPAexGothic", "IPAGothic", "TakaoGothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "NanumGothic", "Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil",
    "Leelawadee UI", "Nirmala UI", "Arial Unicode MS", "FreeSans", "Unifont",
)  # fmt: skip
HINT = "install a font that has them, such as Noto Sans CJK, and delete Matplotlib's font cache"


@lru_cache(maxsize=1)
def families() -> list[str]:
    """The installed fonts of the tables above, in their order."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return [FIRST, *(name for name in OTHERS if name in installed)]


@lru_cache(maxsize=64)
def font_path(family: str) -> Path:
    """The file of an installed font."""
    return Path(font_manager.findfont(family))


@lru_cache(maxsize=64)
def _characters(family: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font_path(family)).get_charmap())


def lettered(text: str, instead: str = "", *, fonts: Sequence[str] = ()) -> str:
    """A text as a picture can show it: never as boxes in place of characters.

    Args:
        text: printable.
        instead: what stands for a text that cannot be shown; empty to replace its characters by escapes.
        fonts: that the picture uses; empty for all that are installed, as in `plain_text`.
    """
    known = frozenset().union(*map(_characters, fonts or families()))
    if all(character.isspace() or ord(character) in known for character in text):
        return text
    parts = (c if c.isspace() or ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in text)
    shown = instead or "".join(parts)
    _say_once(text, shown)
    return shown


def in_one_font(text: str) -> tuple[str, str]:
    """The text as `lettered`, and the installed font that has most of its characters, for programs that use one."""
    family = max(families(), key=lambda family: sum(ord(character) in _characters(family) for character in text))
    return lettered(text, fonts=[family]), family


@lru_cache(maxsize=1024)
def _say_once(text: str, shown: str) -> None:
    if _say_once.cache_info().currsize == 0:  # once per process is enough
        logger.warning(
            "no installed font has all characters of %r, which pictures show as %r, and so with other names; %s",
            printable(text),
            shown,
            HINT,
        )


@contextmanager
def plain_text() -> Iterator[None]:
    """Within the block, plots use all fonts, and show a $ as it is: text between two of them would be a formula."""
    with matplotlib.rc_context({"text.parse_math": False, "font.family": families()}):
        yield
