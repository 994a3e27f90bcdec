"""Text for people: names made safe to print and to write as TOML, globs, counts."""

from __future__ import annotations

import fnmatch
import shlex
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from toolkit.base.errors import QtoolError, not_in_locale

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(name: str) -> str:
    """A name with control characters, line separators and direction overrides made visible.

    An escape sequence in a node's name could otherwise alter the reader's terminal, and a direction override the order
    of words.
    """
    return name if name.isprintable() else "".join(f"\\u{ord(c):04x}" if _hidden(c) else c for c in name)


def count(number: int, noun: str) -> str:
    """A number with its noun, plural unless the number is 1."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def bytes_words(size: int) -> str:
    """A number of bytes for people: ``512 bytes``, ``6.8 MB``, ``1.2 GB``; in powers of ten, like disk sizes."""
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return count(size, "byte")


def on_one_line(text: str, most: int = 400) -> str:
    """Text on one line of at most ``most`` characters; of longer text the beginning and the end, where the cause is."""
    words = " ".join(text.split())
    half = (most - 3) // 2
    return words if len(words) <= most else f"{words[:half].rstrip()}...{words[-half:].lstrip()}"


def samples_by_profile(number: int, profiles: Mapping[str, int]) -> str:
    """The number of samples, and per profile if there are several."""
    several = ", ".join(f"{name} {own}" for name, own in profiles.items())
    return count(number, "sample") + (f" ({several})" if len(profiles) > 1 else "")


def plain_lines(text: str) -> str:
    """Text of several lines, each made safe with ``plain``."""
    return "\n".join(plain(line) for line in text.split("\n"))


def text_of(lines: Iterable[str]) -> str:
    """Text of several lines, each ended by a line break; breaks within a line, as in a name, are made visible."""
    return "".join(f"{plain(line)}\n" for line in lines)


def literal_glob(name: str) -> str:
    """A glob that matches only this name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def matching(pattern: str, names: Collection[str]) -> list[str]:
    """The names that a glob matches; a pattern that equals a name matches only this name, even if it has brackets."""
    return [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def shell_word(path: Path | str) -> str:
    """A path as written in a shell command, quoted if necessary."""
    return shlex.quote(str(path))


def toml_string(text: str) -> str:
    """A TOML basic string; characters that ``plain`` would make visible are escaped, so parsing restores the text.

    Raises:
        QtoolError: the text has bytes that are not UTF-8 (a surrogate from a file name), which TOML cannot represent,
            or that the locale's encoding lacks.
    """
    import tomli_w

    if any(unicodedata.category(letter) == "Cs" for letter in text):
        if sys.getfilesystemencoding() != "utf-8":
            raise not_in_locale(text)
        raise QtoolError(
            f"'{plain(text)}' is not UTF-8 text, so no recipe can name it", remedy="rename the file or folder"
        )
    quoted = tomli_w.dumps({"k": text}).removeprefix("k = ").removesuffix("\n")
    return "".join(_escape(letter) if _hidden(letter) and letter != "\t" else letter for letter in quoted)


def toml_key(name: str) -> str:
    """A name as a TOML key: quoted unless TOML allows it bare, as in ``shapes."input:0"``."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else toml_string(name)


def _hidden(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
