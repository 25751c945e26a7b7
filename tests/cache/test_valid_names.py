"""One rule for every name: what passes is one visible folder on every system; what does not is refused, with why."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.valid_names import MAX_BYTES, check_name, problem_of_name

GOOD = ["tcn", "r1", "_x", "expr-mae", "lr=0.01+tcn", "vit.b16", "表情", "über", "a" * MAX_BYTES, "0", "v1.2-rc_3"]
HOSTILE = [
    *["", ".", "..", "...", "../x", "../../x", "/etc/x", "a/b", "a/../b", "a\\b", "..\\x", "C:x", "./x", "x/", "/"],
    *[".hidden", "-rf", "--force", "-", " ", " x", "x ", "x.", "a b", "a\tb", "a\nb", "a\x00b", "\x1b[31mred", "\x7f"],
    *["r[1]", "*", "r*", "r?", "{a,b}", "~", "~root", "$HOME", "`ls`", "a;b", "a|b", "a&b", "<a>", '"a"', "'a'", "[/]"],
    *["con", "NUL", "nul.txt", "COM1", "lpt9.x", "a" * (MAX_BYTES + 1), "é" * 51, "e\u0301", "a\u202eb", "a\ud800"],
    *["a,b", "a:b", "a%b", "a@b", "#a", "a!", "(a)", "+a", "=1+1", "\u0301a", "\u200b", "．．", "a\u2215b"],
]


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name: str) -> None:
    assert check_name(name, "--name") == name


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_with_what_was_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"^--name '|^--name \"") as error:
        check_name(name, "--name")
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a.b", "a=b", "é", "a+b"])
def test_a_section_of_the_configuration_is_narrower(name: str) -> None:
    check_name(name, "--name")
    with pytest.raises(ValueError, match=r"section of mtl\.toml"):
        check_name(name, "--name", is_section=True)


@given(st.text(max_size=120) | st.text(string.printable, max_size=12))
def test_what_passes_is_one_folder_below_its_place(name: str) -> None:
    if problem_of_name(name):
        return
    place = Path("/place")
    assert (place / name).parent == place
    assert (place / name).name == name
    assert name[0] not in ".-"
    assert name.isprintable()
    assert not set(name) & set("/\\:*?[]{}\"'<>|$`~;&!() \0")
    assert len(name.encode()) <= MAX_BYTES
