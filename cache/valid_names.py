"""What a run, a study, a stream, a backbone or an ensemble may be called: one rule for all of them.

A name is one folder or file below the place it belongs to, on every system, and can be typed again as it is shown. It
is made of letters and digits of any script, `_`, `-`, `.`, `=` and `+`; it begins with a letter, a digit or `_`, does
not end with `.`, and has at most 100 bytes. That leaves out separators, `..`, hidden names, options, control signs and
spaces; and also brackets, braces and the other signs of patterns, which our own code takes as they are, but which a
shell does not: an unquoted `r[1]` names the run `r1`. This is for names to be given: a folder that is there already is
read under whatever name it has, and a path is never taken for a pattern.
"""

import re
import unicodedata

MAX_BYTES = 100  # a temporary name has the host and the process in it besides, and 255 is what file systems allow
SIGNS = "_-.=+"
RULE = f"a name has letters, digits and {' '.join(SIGNS)}"
# Windows takes these for devices, whatever extension follows.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def check_name(name: str, what: str, *, is_section: bool = False) -> str:
    """`name` itself, if it can be the name of `what` ("--name", "[study] name"), which opens the error.

    With `is_section` it also becomes a section of mtl.toml, [backbones.NAME]: then letters and digits are ASCII's, and
    of the other signs there are `_` and `-`.

    Raises:
        ValueError: it cannot; says why.
    """
    if problem := problem_of_name(name) or (_problem_of_section(name) if is_section else ""):
        raise ValueError(f"{what} {name!r}: {problem}")
    return name


def check_encoding(path: str) -> None:
    """Raises `ValueError` where the name of a file that is there is no text, so that no table can name it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: its name is not UTF-8; rename it") from None


def problem_of_name(name: str) -> str:
    """Why `name` can be no name, or nothing."""
    if not name:
        return f"{RULE}, at least one of them"
    wrong = next((sign for sign in name if not _is_allowed(sign)), "")
    if wrong:
        return f"{RULE}, not {wrong!r}; it is one folder, no path"
    if not (name[0].isalnum() or name[0] == "_"):
        return "a name begins with a letter, a digit or _"
    if name.endswith("."):
        return "a name does not end with a dot"
    if len(name.encode()) > MAX_BYTES:
        return f"a name has at most {MAX_BYTES} bytes, this one has {len(name.encode())}"
    if DEVICES.fullmatch(name):
        return "Windows takes this name for a device; choose another"
    if unicodedata.normalize("NFC", name) != name:
        return "its accents are signs of their own, which some file systems join; type it in composed form (NFC)"
    return ""


def _problem_of_section(name: str) -> str:
    if BARE_KEY.fullmatch(name):
        return ""
    return "a backbone or stream is a section of mtl.toml, and its name is made of letters, digits, - and _"


def _is_allowed(sign: str) -> bool:
    # A mark (category M) belongs to the letter before it. Lone surrogates, of names that are not UTF-8, are in Cs.
    return sign.isalnum() or sign in SIGNS or unicodedata.category(sign).startswith("M")
