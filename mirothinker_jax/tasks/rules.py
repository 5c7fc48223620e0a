"""Answers graded by rule: equal as text, once notation is taken off, or equal as numbers.

Notation is LaTeX (\\text{…}, $…$, 4{,}390), Markdown (**…**), Unicode's variants of one sign, case, Latin accents,
thousands separators, and quotes or stops at the ends. What changes a value stays: a sign, a percent sign, a leading
decimal point, an exponent, the marks of scripts in which they are letters. Linear in the length of the answer.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from decimal import Decimal

# fmt: off
_STYLES = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|emph|underline|mbox|boxed|mathrm|mathbf|mathit|mathsf|mathtt|"
    "mathcal|mathbb|boldsymbol|bm|operatorname|ensuremath"
)
# fmt: on
_BRACE = re.compile(rf"(?P<style>\\(?:{_STYLES})\*?\s*+\{{)|\\[{{}}\\]|[{{}}]")
_COMMANDS = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\!"), ""),
    (re.compile(r"\\[,;: ]|\\q?quad(?![A-Za-z])|(?<=\S)~(?=\S)"), " "),
    (re.compile(r"\^\s*+\{?\s*+\\circ\s*+\}?|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\[dt]?frac\s*+\{([^{}\\]*+)\}\s*+\{([^{}\\]*+)\}"), r"\1/\2"),
    (re.compile(r"\^\{([^{}\\]*+)\}"), r"^\1"),
    (re.compile(r"\\([%$&#_{}])"), r"\1"),
)
# NFKC would write 10² as 102 and 1½ as 11/2.
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)|(?<=[0-9])([¼½¾⅐-⅞])")
_SIGNS = str.maketrans(
    dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("‘’‚‛ʼʻ′`´", "'")
    | dict.fromkeys("“”„‟«»″", '"')
    | dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff")
    | {"⁄": "/"}
)
_ENDS = frozenset(" .,;:\"'。、")
_WRAPPERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"), ("*", "*"), ("_", "_"))
_ACCENTS = re.compile(r"(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+")
_THOUSANDS = re.compile(r"(?<![\d.,])(?<!\d[' ])\d{1,3}([,' ])\d{3}(?:\1\d{3})*+(?!\d)")
_NUMBER = re.compile(r"([+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,4})?)(%?)", re.ASCII)
_NOTHING = re.compile(r"[?.\s]*|unknown")


def is_correct(expected: str, answer: str | None) -> bool:
    """Whether `answer` is `expected`, as text without its notation or as a number; never for no answer.

    >>> is_correct("4390", r"\\text{4{,}390}"), is_correct("São Tomé", "sao  tome"), is_correct("-8", "8")
    (True, True, False)
    """
    if answer is None:
        return False
    given = canonical(answer)
    return given != "" and given == canonical(expected)


def is_correct_gaia(expected: str, answer: str | None) -> bool:
    """The string scorer of the GAIA benchmark (arXiv 2311.12983), with its quirks: 1,000 is a list of two.

    Where `expected` is a number, numbers are compared; where it holds a comma or semicolon, its elements in their
    order; else letters and digits without case.

    >>> is_correct_gaia("17", "$17"), is_correct_gaia("a,b", "a; b"), is_correct_gaia("1,000", "1000")
    (True, True, False)
    """
    if answer is None:
        return False
    if _float(expected) is not None:
        return _float(expected) == _float(re.sub("[$%,]", "", answer))
    if not re.search("[,;]", expected):
        return _bare(expected, string.punctuation) == _bare(answer, string.punctuation)
    wanted, given = re.split("[,;]", expected), re.split("[,;]", answer)
    return len(wanted) == len(given) and all(
        _bare(w) == _bare(g) if _float(w) is None else _float(w) == _float(re.sub("[$%]", "", g))
        for w, g in zip(wanted, given, strict=True)
    )


def says_nothing(answer: str) -> bool:
    """True for what stands in a box in an answer's place: nothing, question marks, dots, "unknown".

    >>> says_nothing("？"), says_nothing(r"\\text{Unknown}"), says_nothing("0")
    (True, True, False)
    """
    return _NOTHING.fullmatch(_without_notation(answer)) is not None


def plain(text: str) -> str:
    """The text that two spellings of one answer share: without notation, case, Latin accents and separators.

    >>> plain("**N’Djamena**."), plain("\\\\(1{,}234\\\\,\\\\%\\\\)")
    ("n'djamena", '1234%')
    """
    text = _without_notation(text)
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    return re.sub(r"(?<=\d) %", "%", text)


@functools.lru_cache(maxsize=1024)  # drawing questions compares few texts with each other, many times
def canonical(text: str) -> str | tuple[Decimal, str]:
    """What is equal for two spellings of one answer, and hashable: `plain` text, or a number and its percent sign.

    >>> canonical("1{,}234.50"), canonical("São Tomé")
    ((Decimal('1234.50'), ''), 'sao tome')
    """
    text = plain(text)
    number = _NUMBER.fullmatch(text)
    return text if number is None else (Decimal(number[1]), number[2])


def _without_notation(text: str) -> str:
    text = _drop_styles(text.replace("{,}", ","))
    for command, meaning in _COMMANDS:
        text = command.sub(meaning, text)
    text = _RAISED.sub(lambda match: f"^{match[1]}" if match[1] else f" {match[2]}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS).casefold()
    return _strip_ends(" ".join(text.split()))


def _drop_styles(text: str) -> str:
    """Without commands such as \\text and the braces that are theirs."""
    pieces, place = [], 0
    styled: list[bool] = []  # for each open brace
    for brace in _BRACE.finditer(text):
        if brace["style"] or brace[0] == "{":
            styled.append(bool(brace["style"]))
            drop = styled[-1]
        else:
            drop = brace[0] == "}" and bool(styled) and styled.pop()
        if drop:
            pieces.append(text[place : brace.start()])
            place = brace.end()
    return "".join([*pieces, text[place:]])


def _strip_ends(text: str) -> str:
    """Without quotes and stops at the ends, and without what encloses the whole; the point of .5 stays."""
    start, end = 0, len(text)
    while start < end:
        if text[start] in _ENDS and not (text[start] == "." and text[start + 1 : start + 2].isdigit()):
            start += 1
        elif text[end - 1] in _ENDS:
            end -= 1
        else:
            for left, right in _WRAPPERS:
                inside = start + len(left), end - len(right)
                if (
                    inside[0] <= inside[1]
                    and text.startswith(left, start)
                    and text.startswith(right, inside[1])
                ):
                    start, end = inside
                    break
            else:
                break
    return text[start:end]


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _bare(text: str, without: str = "") -> str:
    return "".join(text.split()).translate(str.maketrans("", "", without)).lower()
