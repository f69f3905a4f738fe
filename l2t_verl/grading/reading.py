"""An answer as what it is: a number, an option, words, a number in another base, or an expression."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from l2t_verl.grading.rules import normalised

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(rf"(?P<sign>[-+]?)(?P<value>{_DECIMAL})(?:\\times10\^\{{(?P<power>[-+]?\d{{1,4}})\}})?")
_REPEATING = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d*)\.(?P<after>\d*)\\(?:overline|bar)\{?(?P<period>\d+)\}?")
_POWER = re.compile(r"(?P<sign>[-+]?)10\^\{(?P<power>[-+]?\d{1,4})\}")
_FRACTION = re.compile(
    rf"(?P<sign>[-+]?)(?P<whole>\d+)?(?:\\[dtc]?frac\{{(?P<inner>-?)(?P<above>{_DECIMAL})\}}\{{(?P<below>{_DECIMAL})\}}"
    r"|\\[dtc]?frac(?P<above1>\d)(?P<below1>\d)|(?P<above2>\d+)/(?P<below2>\d+))"
)
_BASED = re.compile(  # C_2 is a variable
    r"(?=[A-Fa-f]*\d)(?P<digits>[\dA-Fa-f.]+)_(?:\{\s*\(?(?P<base>-?\d+|\\text\{[a-z]+\})\)?\s*\}|(?P<base1>\d+))"
)
_OPTIONS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,\s*and\b|,|;|&|and\b)\s*\(?[A-Z]\)?(?![A-Za-z]))+")
_COLONS = re.compile(r"(?P<parts>\d+(?::\d+)+)(?:\\text\{)?(?P<half>[ap]\.?m\.?)?\}?", re.IGNORECASE)
_OPTION = re.compile(
    r"(?:[\[({<]\s*(?P<a>[A-Za-z])\s*[\])}>]\.?(?P<rest_a>.*)|(?P<b>[A-Z])\s*(?:[.:)]|\s[-–—]\s)(?P<rest_b>.*)|(?P<c>[A-Z]))",
    re.DOTALL,
)
_LETTER_AND_TEXT = re.compile(r"(?:[\[(]\s*[A-J]\s*[\])][.:]?(?=[\s\d$\\])|[A-J]\s*[.:)]\s)(?P<text>.*\S.*)", re.DOTALL)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(
    rf"(?P<value>[-+]?{_DECIMAL})\s*(?:\\text\{{)?\s*(?P<word>{'|'.join(_SCALES)})\b[^\d{{}}\\,]*\}}?", re.IGNORECASE
)
_DENIED = re.compile(
    r"\s*(?:(?:is|was)\s+(?:not|false|wrong|incorrect)\b|isn't\b|(?:not\s+(?:correct|right|true)|wrong|incorrect)\b\W*$)",
    re.IGNORECASE,
)
_OTHER_OPTION = re.compile(r"^\s*(?:,|;|&|/|and\b|or\b)\s*[\[(]?[A-Z][\])]?(?![A-Za-z])")
_WORDS = re.compile(r"[^\W\d_][^\W_]*(?:[\s,'’-]+[^\W_]+)*", re.UNICODE)
_SHORT_WORDS = {"yes", "no", "odd", "even", "all", "none", "true", "false", "both", "neither", "never", "always"}
_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\text\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:geq|leq|neq)(?![A-Za-z])"), lambda match: match[0][:-1]),
    (re.compile(r"(?<=[\^_])\{(\w)\}"), r"\1"),
    (re.compile(r"\\[pb]?mod\s*(?:\{\s*(\w+)\s*\}|(\w+))"), r"\\mod{\1\2}"),
    (re.compile(r"\\(?=[{}])|(?<!\d)\s|\s(?!\d)"), ""),  # "3 4" is not 34
)


@dataclass(frozen=True)
class Number:
    """A number that is written out.

    Attributes:
        value: exactly as written.
        decimals: digits after the point; None where it is no decimal, and so exact.
        digits: significant ones; 0 where it is exact.
    """

    value: Fraction
    decimals: int | None = None
    digits: int = 0


@dataclass(frozen=True)
class Reading:
    """What a text says.

    Attributes:
        text: by the rules of spelling, without a sign of percentage.
        is_percentage: whether it had one.
        found: sympy's object where the text was made from it; else it is read from the text.
    """

    text: str
    is_percentage: bool
    found: Any = field(default=None, compare=False)

    @classmethod
    def of_expression(cls, found: Any) -> Reading:
        """What sympy's object says.

        Example:
            >>> from sympy import Rational
            >>> Reading.of_expression(Rational(1, 2)).number.value
            Fraction(1, 2)
        """
        return cls(str(found), False, found)

    @cached_property
    def number(self) -> Number | None:
        """The number, where it is written out; None for expressions."""
        return number(self.text)

    @cached_property
    def canonical(self) -> str:
        """What spellings of the same formula share."""
        text = self.text
        for pattern, replacement in _SPELLINGS:
            text = pattern.sub(replacement, text)
        return text

    @property
    def option(self) -> str | None:
        """The letter of an option, with its text or without, upper case."""
        return option(self.text)

    @property
    def of_option(self) -> str | None:
        r"""The text of an option beside its letter; None where there is no letter, or nothing else.

        Example:
            >>> read("\\textbf{(C)}\\ 12").of_option, read("C: 12").of_option, read("(C)").of_option, read("(n) 2").of_option
            ('12', '12', None, None)
        """
        text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", self.text).strip()
        found = _LETTER_AND_TEXT.fullmatch(text)
        return found["text"].strip() if found and self.option else None

    @property
    def options(self) -> frozenset[str] | None:
        """The letters of several options, and nothing else."""
        text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", self.text)
        return frozenset(re.findall(r"[A-Z]", text)) if _OPTIONS.fullmatch(text) else None

    @property
    def scaled(self) -> tuple[str, int] | None:
        """What stands before "million" or the like, and the power of ten that the word means."""
        found = _SCALED.fullmatch(self.text)
        return (found["value"], _SCALES[found["word"].lower()]) if found else None

    @property
    def is_only_option(self) -> bool:
        """Whether it is a capital letter, in brackets or not, and nothing else."""
        return re.fullmatch(r"[\[(]?[A-Z][\])]?", self.canonical) is not None

    @property
    def words(self) -> str | None:
        """Words in lower case; None for what may be a product of variables."""
        text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", self.text).strip().strip("\"'.!").strip()
        if not _WORDS.fullmatch(text) or "\\" in text:
            return None
        bare = text.replace(" ", "")
        plain = "\\text" not in self.text and (len(bare) < 4 and not (bare[:1].isupper() and len(bare) > 1))
        if plain and bare.lower() not in _SHORT_WORDS:
            return None
        return " ".join(re.findall(r"[^\W_]+", text.casefold()))

    @property
    def based(self) -> tuple[str, str] | None:
        """Digits and base of a number that names its base."""
        found = _BASED.fullmatch(self.text.replace(" ", ""))
        if not found:
            return None
        digits, base = found["digits"].lower(), found["base"] or found["base1"]
        fits = not base.isdigit() or all(int(digit, 16) < int(base) for digit in digits if digit != ".")
        return (digits, base) if fits else None

    @property
    def ratio(self) -> tuple[list[int], str, bool] | None:
        """The parts of a ratio or a time, the half of the day, and whether it may be a time."""
        found = _COLONS.fullmatch(re.sub(r"\s|\\text\{(?=\s*[apAP])", "", self.text))
        if not found:
            return None
        parts = found["parts"].split(":")
        is_time = all(len(part) == 2 and int(part) < 60 for part in parts[1:]) and len(parts[0]) < 3 and int(parts[0]) <= 24
        return [int(part) for part in parts], (found["half"] or "").lower().replace(".", ""), is_time

    @cached_property
    def expression(self) -> Any:
        """The text as sympy reads all of it; None where it does not."""
        return expression(self.text) if self.found is None else self.found


def read(text: str) -> Reading:
    r"""Read an answer or a truth.

    Example:
        >>> read("\\$1{,}234.50").number.value, read("25 percent").is_percentage, read("\\textbf{(C)}\\ 12").option
        (Fraction(2469, 2), True, 'C')
        >>> read("\\text{Evelyn}").words, read("ab").words, read("12_{5}").based, read("0, 2, \\ldots, 1022").expression
        ('evelyn', None, ('12', '5'), None)
    """
    text = normalised(text)
    is_percentage = text.endswith("\\%")
    return Reading(text.removesuffix("\\%").strip() if is_percentage else text, is_percentage)


def number(text: str) -> Number | None:
    r"""A number that is written out, exactly; the digits under a line repeat without end.

    Example:
        >>> number("-\\frac{1}{2}"), number("6\\times10^{3}").value, number("0.50").decimals, number("x")
        (Number(value=Fraction(-1, 2), decimals=None, digits=0), Fraction(6000, 1), 2, None)
        >>> number("0.1\\overline{6}").value, number("3 4")
        (Fraction(1, 6), None)
    """
    if re.search(r"\d\s+\d", text):  # "3 4" is not 34
        return None
    text = text.replace(" ", "")
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    if found := _NUMBER.fullmatch(text):
        whole, _, after = found["value"].partition(".")
        power = int(found["power"] or 0)
        value = Fraction(int(whole + after or 0), 10 ** len(after)) * Fraction(10) ** power
        decimals = None if "." not in found["value"] and not power else len(after) - power
        digits = 0 if decimals is None else len((whole + after).lstrip("0"))
    elif found := _REPEATING.fullmatch(text):
        head, period = found["whole"] + found["after"], found["period"]
        nines = 10 ** len(period) - 1
        value = Fraction(int(head + period) - int(head or 0), nines * 10 ** len(found["after"]))
        decimals, digits = None, 0
    elif found := _POWER.fullmatch(text):
        value, decimals, digits = Fraction(10) ** int(found["power"]), None, 0
    elif found := _FRACTION.fullmatch(text):
        above = found["above"] or found["above1"] or found["above2"]
        below = Fraction(found["below"] or found["below1"] or found["below2"])
        if below == 0 or (found["whole"] and (found["above2"] or found["inner"])):
            return None
        value = Fraction(above) / below * (-1 if found["inner"] else 1) + int(found["whole"] or 0)
        decimals, digits = None, 0
    else:
        return None
    return Number(-value if found["sign"] == "-" else value, decimals, digits)


def option(text: str) -> str | None:
    r"""The letter of an option; None where there is none, or several.

    Example:
        >>> [option(text) for text in ("C: 12", "(C)\\ 12", "C.", "(c)", "C", "A, B", "(A) and (B)", "Cat", "C = 5")]
        ['C', 'C', 'C', 'C', 'C', None, None, None, None]
        >>> [option(text) for text in ("Option C is correct", "(C) is wrong", "C: wrong", "C. False")]  # a text of an option
        ['C', None, None, 'C']
    """
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).replace("\\ ", " ").strip()
    text = re.sub(r"(?i)^(?:option|choice|answer)\s+(?=[\[(]?[A-Z])", "", text)
    text = re.sub(r"\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice|one))?\.?$", "", text)
    found = _OPTION.fullmatch(text)
    if not found or _OTHER_OPTION.match(rest := found["rest_a"] or found["rest_b"] or "") or _DENIED.match(rest):
        return None
    if rest[:1] == "^" or (found["a"] and rest[:1] in ("+", "-", "=", "(", "[")):
        return None
    return str(found["a"] or found["b"] or found["c"]).upper()


@lru_cache(maxsize=64)
def expression(text: str) -> Any:
    """A formula as sympy's object, decimals exact; None where it is not read as a whole."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy import Basic, MatrixBase

    if not text or "dots" in text or re.search(r"\d\s+\d", text) or _BASED.search(text):
        return None
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    text = _for_latex(text)
    if "'" in text:  # it would be dropped
        return None
    plain = normalize_latex(text, config)
    try:
        found = latex2sympy(
            plain, is_real=not should_treat_as_complex(plain), convert_degrees=False, normalization_config=None
        )
    except Exception:  # of many kinds, from the lexer's to sympy's
        return None
    return found if isinstance(found, (Basic, MatrixBase)) else None


def _for_latex(text: str) -> str:
    r"""Plain operators as LaTeX has them.

    Example:
        >>> _for_latex("sqrt(2)*x**2"), _for_latex("2 sqrt2"), _for_latex("S/S'")  # a prime makes another variable
        ('\\sqrt{2}\\cdot x^2', '2 \\sqrt{2}', 'S/S_{p}')
    """
    text = re.sub(r"(?<![\\A-Za-z])([A-Za-z])(?:'|\^\s*\{?\s*\\prime\s*\}?)(?!['_])", r"\1_{p}", text)
    text = text.replace("**", "^").replace("*", "\\cdot ")
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*(\d+)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(pi|infty|theta|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1", text)
    return re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
