"""Which TOML is refused for the parts of its keys, and that no dots of anything else count."""

from __future__ import annotations

import time

import pytest

from toolkit.base.toml import parse_toml, tomllib

PARTS = {
    "bare": "a", "in quotes": '"a b"', "with an equals sign": '"a=b"', "literal": "'a, b'", "of escapes": r'"a\"b"',
    "of dots": '"a.b"',
}  # fmt: skip
CHAIN = "a." * 300 + "a"
SOUND = {
    "a string": f'k = "{CHAIN}"',
    "a literal string": f"k = '{CHAIN}'",
    "a string after an escaped quote": f'k = "\\"{CHAIN}"',
    "a comment": f"# {CHAIN}\nk = 1  # it's {CHAIN}",
    "strings of several lines": f'k = """\n{CHAIN}\n"{CHAIN}" \\""" """\nm = \'\'\'{CHAIN}\'\'\'',
    "an array": f"k = [{', '.join(['0.5'] * 300)}, '{CHAIN}']",
    "numbers without spaces": f"k = [{','.join(['1.5e3'] * 300)}]",
    "words that end in dots": "# " + "so.\n# " * 300 + "\nk = 1",
    "inline tables": f"k = [{', '.join(['{ a.b.c = 1 }'] * 200)}]",
    "a quoted key of dots": f'"{CHAIN}" = 1',
    "keys of two parts": "\n".join(f"a{number}.b = 1" for number in range(300)),
    "a key of 100 parts": "a." * 99 + "a = 1",
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "[[{}]]", "k = {{ {} = 1 }}"])
def test_a_key_of_very_many_parts_is_refused_however_it_is_spelled(name, form):
    for dot in (".", " . ", "\t."):
        with pytest.raises(ValueError, match="more than 100 parts"):
            parse_toml(form.format(dot.join([PARTS[name]] * 102)))


@pytest.mark.parametrize("name", SOUND)
def test_other_dots_do_not_count(name):
    assert parse_toml(SOUND[name]) == tomllib.loads(SOUND[name])


@pytest.mark.parametrize("text", ['"', "'", '"""', "'''", '"""\\"', "\\", '"\\', "''''", '""""', "#"])
def test_words_are_found_in_a_time_that_grows_with_the_text_whatever_is_in_it(text):
    before = time.process_time()
    with pytest.raises(ValueError, match=r"parts|at line|at end"):
        parse_toml(f"k = {text}." * 100_000 + "=")
    assert time.process_time() - before < 5
