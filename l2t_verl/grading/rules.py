r"""Rules that write an answer one way, for responses and truths alike, before anything is read as mathematics.

Each rule mends one kind of spelling and shows it in its examples; `RULES` is their order. A text that no rule knows
passes through unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from l2t_verl.grading.truth import unwrapped
from l2t_verl.grading.units import without_unit

Rule = Callable[[str], str]

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
        **dict.fromkeys("×✕✖⨯", "\\times "),
        **dict.fromkeys("·⋅∙•", "\\cdot "),
        **dict.fromkeys("°º˚", "^\\circ "),
        **dict.fromkeys("‘’′", "'"),
        **dict.fromkeys("…⋯", "\\ldots "),
        **dict.fromkeys("≤⩽", "\\le "),
        **dict.fromkeys("≥⩾", "\\ge "),
        "÷": "/", "⁄": "/", "∕": "/", "∗": "*", "％": "%", "、": ",", "。": ".", "∶": ":",
        "∞": "\\infty ", "±": "\\pm ", "∓": "\\mp ", "≠": "\\ne ", "≈": "\\approx ", "≡": "\\equiv ", "∈": "\\in ",
        "∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
        "⌉": "\\rceil ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
        "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ε": "\\epsilon ", "θ": "\\theta ",
        "λ": "\\lambda ", "μ": "\\mu ", "π": "\\pi ", "ρ": "\\rho ", "σ": "\\sigma ", "τ": "\\tau ", "φ": "\\phi ",
        "ϕ": "\\phi ", "ω": "\\omega ", "ħ": "\\hbar ", "ℏ": "\\hbar ", "Δ": "\\Delta ", "Ω": "\\Omega ",
    }
)  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n")


def plain_characters(text: str) -> str:
    r"""Unicode mathematics in LaTeX, digits and letters of other widths and fonts in ASCII.

    Source: models write both; math-verify reads LaTeX only.

    Example:
        >>> plain_characters("–12"), plain_characters("∞"), plain_characters("5×10⁻³"), plain_characters("x₁² + ½")
        ('-12', '\\infty ', '5\\times 10^{-3}', 'x_{1}^{2} + \\frac{1}{2}')
        >>> plain_characters("√2"), plain_characters("√(x+1)"), plain_characters("３４")
        ('\\sqrt{2}', '\\sqrt{x+1}', '34')
    """
    if text.isascii():
        return text
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    text = text.translate(_CHARACTERS)
    text = "".join(character if character.isascii() else _plain(character) for character in text)
    return re.sub(r"([√∛∜])\s*(\{[^{}]*\}|\([^()]*\)|\d+(?:\.\d+)?|[A-Za-z]|\\[A-Za-z]+)?", _root, text)


def _plain(character: str) -> str:
    if unicodedata.category(character) == "No" and "VULGAR FRACTION" in unicodedata.name(character, ""):
        above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{above}}}{{{below}}}"
    if unicodedata.decimal(character, None) is not None:
        return str(unicodedata.decimal(character))
    if unicodedata.decomposition(character).startswith(("<font>", "<wide>", "<circle>")):
        return unicodedata.normalize("NFKC", character)
    return character


def _root(match: re.Match[str]) -> str:
    index = {"√": "", "∛": "[3]", "∜": "[4]"}[match[1]]
    inside = match[2] or ""
    return f"\\sqrt{index}{{{inside[1:-1] if inside[:1] in ('{', '(') else inside}}}"


def without_delimiters(text: str) -> str:
    r"""No marks of mathematics (`$`, `\(`, `\[`), of bold type or of code around it, and no dollar sign of money.

    Source: MATH-500's `\$18.90`, which math-verify does not read; DeepScaleR's `\[ 98 \]`.

    Example:
        >>> without_delimiters("\\[ 98 \\]"), without_delimiters("$98$"), without_delimiters("\\$18.90")
        ('98', '98', '18.90')
        >>> without_delimiters("**12**"), without_delimiters("-$1000"), without_delimiters("$2$ or $3$")
        ('12', '-1000', '2 or 3')
        >>> without_delimiters("\\[ \\boxed{(c, 2)} \\]"), without_delimiters("x=\\boxed{4}"), without_delimiters("2**3")
        ('(c, 2)', 'x={4}', '2**3')
    """
    text = unwrapped(text)
    text = re.sub(
        r"\\text(?:rm)?\s*\{\s*\\?\$\s*\}|\\mathrm\s*\{\s*\\?\$\s*\}|\\textdollar\b|\b(?:US|AU?|CA?|HK|NZ|MX|R|S)\\?\$(?=\s*[}\d.])",
        "",
        text,
    )
    text = re.sub(r"\\(?:boxed|fbox|framebox)\s*(?=\{)", "", text)
    text = re.sub(r"\\?\$|(?<!\\)\\[()\[\]]|\\(?:displaystyle|textstyle|limits|boldsymbol)(?![A-Za-z])|`", "", text)
    return re.sub(r"(?<![\w)])\*\*+|\*\*+(?![\w(])|(?<![\w)}])__|__(?![\w({])", "", text).strip()


def one_text_command(text: str) -> str:
    r"""One command for upright letters, none around what is mathematics or a single word.

    Example:
        >>> one_text_command("\\mathrm{~cm}"), one_text_command("\\textbf{(C)}\\ 12"), one_text_command("\\text{25\\%}")
        ('\\text{ cm}', '(C)\\ 12', '25\\%')
        >>> one_text_command("\\text{Evelyn}"), one_text_command("7\\text{ hours}"), one_text_command("1\\text{,}234")
        ('Evelyn', '7\\text{ hours}', '1,234')
    """
    text = re.sub(
        r"\\(?:text(?:bf|rm|it|normal|sf|tt|up)|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?)\s*(?=\{)", r"\\text", text
    )
    text = re.sub(r"\{\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}", text)
    text = re.sub(r"(?<=\d)\s*\\text\{\s*([eE])\s*\}(?=\{?[-+]?\d)", r"\1", text)
    text = re.sub(r"\\text\s*\{([^{}]*)\}", _text, text)
    whole = re.fullmatch(r"\s*\\text\{([^{}]*)\}\s*", text)
    return whole[1].strip() if whole and whole[1].isalpha() else text


def _text(match: re.Match[str]) -> str:
    inside = match[1].replace("~", " ")
    if inside.strip() == "i":  # the imaginary unit, and none of measure
        return inside
    if not any(character.isalpha() for character in inside) or any(character.isdigit() for character in inside):
        return inside
    if re.fullmatch(r"\s*\(?[A-Za-z]\)?[.,:]?\s*", inside) and "(" in inside:
        return inside
    return "\\text{" + inside + "}"


def without_lead(text: str) -> str:
    r"""No "the answer is", "answer:", "=" or "about" before it.

    Source: boxes as `\boxed{\text{The answer is } 12}` and `\boxed{\approx 9}`; options as `Answer: C`.

    Example:
        >>> without_lead("\\text{The answer is } 12"), without_lead("Answer: C"), without_lead("Final answer = 5")
        ('12', 'C', '5')
        >>> without_lead("\\approx 9"), without_lead("= 9")
        ('9', '9')
    """
    lead = (
        r"(?i:\s*(?:so|thus|hence|therefore)?,?\s*(?:the|my|our)?\s*(?:final|correct|right)?\s*"
        r"(?:answer|result|solution|option|choice)\s*(?:is|are|:|=)\s*(?:option\b|choice\b)?:?\s*)"
    )
    text = re.sub(rf"^\\text\{{{lead}([^{{}}]*)\}}", r"\1", text)
    text = re.sub(rf"^{lead}(?=\S)", "", text)
    return re.sub(r"^\s*(?:=|either\b|\\(?:approx|simeq|sim)(?![A-Za-z]))", "", text).lstrip()


def sign_in_words(text: str) -> str:
    r"""A minus sign for "negative" or "minus" before a number.

    Example:
        >>> sign_in_words("negative 5"), sign_in_words("\\text{minus } \\frac{1}{2}"), sign_in_words("negative")
        ('-5', '-\\frac{1}{2}', 'negative')
    """
    return re.sub(r"^\s*(?:\\text\{\s*)?(?i:minus|negative)\s*\}?\s*(?=\.?\d|\\)", "-", text)


def without_decoration(text: str) -> str:
    r"""No colour and no line under what is stated.

    Example:
        >>> [without_decoration(text) for text in ("\\textcolor{red}{5}", "\\color{red}5", "\\underline{5}")]
        ['{5}', '5', '{5}']
    """
    return re.sub(r"\\(?:textcolor|color|colorbox)\s*\{[^{}]*\}\s*|\\(?:underline|uline|emph)\s*(?=\{)", "", text)


def plain_spaces(text: str) -> str:
    r"""Plain spaces for LaTeX's, none for those that take no room; no sizes of brackets.

    Example:
        >>> plain_spaces("25\\,\\%"), plain_spaces("32,\\!348"), plain_spaces("\\left( 3,\\;4 \\right)")
        ('25 \\%', '32,348', '( 3, 4 )')
        >>> plain_spaces("1 \\\\ 2\\ 3 \\\\"), plain_spaces("5\\,cm")
        ('1 \\\\ 2 3', '5 cm')
    """
    text = re.sub(r"\\!\s*|\\phantom\{[^{}]*\}|\{\s*\}(?!\s*\^)", "", text)
    text = re.sub(
        r"\\\\\s*$|(\\\\)|\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z]))|~|\s+",
        lambda match: match[1] or " ",  # the end of a matrix's row stays
        text,
    )
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])\s*\.?|\\[bB]igg?[lr]?(?![A-Za-z])", "", text)
    return text.strip().rstrip("\\").rstrip()  # of a space at the end its backslash may be left


def one_ellipsis(text: str) -> str:
    r"""`\ldots` for each spelling of "and so on".

    Source: DeepScaleR's `0,2,...,8`.

    Example:
        >>> one_ellipsis("0,2,...,8"), one_ellipsis("1+\\cdots+n"), one_ellipsis("1, . . . , 9")
        ('0,2,\\ldots ,8', '1+\\ldots +n', '1, \\ldots  , 9')
    """
    return re.sub(r"\\(?:dots[cbmio]?|cdots|ldots|hdots)(?![A-Za-z])\s*|\.(?:\s?\.){2,}", r"\\ldots ", text)


def without_thousands(text: str) -> str:
    r"""Digits of one number together, whatever separates its thousands; a decimal comma in braces is a point.

    Source: `1\,234\,567` (SI), `1{,}008{,}016` (DeepScaleR), `1'234` (Swiss).

    Example:
        >>> [without_thousands(text) for text in ("1 234 567", "1{,}234", "12,000", "1'234.5", "3{,}5", "1, 234")]
        ['1234567', '1234', '12000', '1234.5', '3.5', '1, 234']
    """
    text = re.sub(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text)
    if re.search(r"[(\[{]\s*-?[\d.]+,\d", text):  # a pair or a set of numbers without spaces
        return text
    for separator in (",", " ", "'"):
        text = re.sub(
            rf"(?<![\d.,])(\d{{1,3}})((?:{separator}\d{{3}})+)(?![\d]|{separator}\d)",
            lambda match: match[1] + re.sub(r"[^\d]", "", match[2]),
            text,
        )
    return text


def without_currency(text: str) -> str:
    r"""No sign or name of a currency beside a number.

    Source: `£5`, `5 \text{ USD}`, `Rs. 500`; the dollar sign is a delimiter's too and gone already.

    Example:
        >>> [without_currency(text) for text in ("£5", "-€5", "5€", "USD 5", "5 dollars", "\\pounds 5", "Rs. 500", "25¢")]
        ['5', '-5', '5', '5', '5', '5', '500', '25']
    """
    if not re.search(r"\d", text):
        return text
    text = re.sub(
        r"\\(?:pounds|euro|EUR|yen|textsterling|texteuro|textyen|textcent|cents?|rupee|textwon)(?![A-Za-z])\s*(?:\{\s*\})?",
        "",
        text,
    )
    text = re.sub(r"\\text\{\s*[£€¥₹₩₽₪₫฿¢]\s*\}|[£€¥￥₹₩₽₪₫฿¢₱₦₴₺₸]", "", text)
    codes = "USD|EUR|GBP|JPY|CNY|RMB|INR|CHF|CAD|AUD|KRW|RUB|Rs\\.?|Re\\.?"
    text = re.sub(rf"(?<![A-Za-z\\])(?:\\text\{{\s*(?:{codes})\s*\}}|(?:{codes}))\s*(?=[-\d.])", "", text)
    names = "dollars?|cents?|euros?|pounds?|yuan|yen|rupees?|rubles?|bucks|pesos?"
    name = rf"(?:{codes}|(?i:{names}))"
    return re.sub(rf"(?<=[\d}}])\s*(?:\\text\{{\s*{name}\s*\}}|{name})\s*\.?\s*$", "", text).strip()


def one_percent(text: str) -> str:
    r"""`\%` for each spelling of a percentage.

    Example:
        >>> [one_percent(text) for text in ("25 \\%", "25 percent", "25\\text{ per cent}", "25%", "25 pct")]
        ['25\\%', '25\\%', '25\\%', '25\\%', '25\\%']
    """
    words = r"per\s?cent(?:age)?(?:\s+points?)?|pct\.?"
    text = re.sub(rf"(?i)(?<=[\d}})])\s*(?:\\text\{{\s*(?:{words})\s*\.?\s*\}}|(?:{words})(?![a-z]))", r"\\%", text)
    return re.sub(r"\s*\\text\{\s*\\?%\s*\}|\s*\\?%", r"\\%", text)


def without_degrees(text: str) -> str:
    r"""No degrees, be it of angles or of temperatures.

    Source: `30\degree`, `30°`, `1950^\circ C` (Minerva).

    Example:
        >>> [without_degrees(text) for text in ("30\\degree", "30^{\\circ}", "1950^\\circ C", "9^\\circ\\text{C}")]
        ['30', '30', '1950', '9']
    """
    text = re.sub(
        r"\\(?:degrees?|textdegree)(?![A-Za-z])|\\text\{\s*\^\\circ\s*\}|\^\s*\{\s*\\circ\s*\}|\^\s*o(?![A-Za-z])",
        r"^\\circ ",
        text,
    )
    text = re.sub(r"\\text\{\s*\^\\circ\s*([CFK])\s*\}", r"^\\circ \1", text)
    text = re.sub(r"\^\s*\\circ\s*(?:\\text\{\s*[CFK]\s*\}|[CFK](?![A-Za-z]))?\s*$", "", text)
    text = re.sub(
        r"(?i)(?<=[\d}])\s*(?:\\text\{\s*deg(?:rees?)?\.?(?:\s+(?:celsius|fahrenheit|[CF]))?\s*\}|deg(?:rees?)?(?:\s+(?:celsius|fahrenheit|[CF]))?)\s*\.?\s*$",
        "",
        text,
    )
    return re.sub(r"\s*\^\s*\\circ\s*", "", text).strip()


def one_power_of_ten(text: str) -> str:
    r"""`a\times10^{n}` for each spelling of scientific notation.

    Source: Minerva's `4.5e33`, which math-verify reads as 4.5·e·33.

    Example:
        >>> [one_power_of_ten(text) for text in ("4.5e33", "6 \\times 10^{13}", "6 x 10^13", "6*10**13")]
        ['4.5\\times10^{33}', '6\\times10^{13}', '6\\times10^{13}', '6\\times10^{13}']
        >>> one_power_of_ten("2e"), one_power_of_ten("10^-5")
        ('2e', '10^{-5}')
    """
    text = re.sub(rf"(?<![\w.])({_NUMBER})\s*[eE]\s*\{{?([-+]?\d+)\}}?(?![\w.])", r"\1\\times10^{\2}", text)
    text = re.sub(r"(?<![\w.])10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\s*\d+)\s*\}|\(\s*([-+]?\d+)\s*\)|([-+]?\d+))", _ten, text)
    return re.sub(rf"({_NUMBER})\s*(?:\\times|\\cdot|\*|[xX])\s*(?=10\^\{{)", r"\1\\times", text)


def _ten(match: re.Match[str]) -> str:
    return "10^{" + (match[1] or match[2] or match[3]).replace(" ", "").lstrip("+") + "}"


def without_final_stop(text: str) -> str:
    r"""No full stop, comma, colon or semicolon at the end.

    Source: DeepScaleR's `98.`, `245 yd.`, `7\text{ hours}.`

    Example:
        >>> without_final_stop("98."), without_final_stop("\\text{hours.}"), without_final_stop("5!")
        ('98', '\\text{hours}', '5!')
        >>> without_final_stop("3.14\\ldots"), without_final_stop("12\\ldots "), without_final_stop("1, 2, \\ldots ")
        ('3.14', '12', '1, 2, \\ldots ')
    """
    if re.search(r"\.\d+\s*\\ldots\s*\.?$", text) or re.fullmatch(r"-?\d+\s*\\ldots\s*", text):
        text = re.sub(r"(?<=\d)\s*\\ldots\s*\.?$", "", text)
    return re.sub(r"[\s.,;:]*((?:\})?)[\s.,;:]*$", r"\1", text) if re.search(r"[.,;:]\s*\}?\s*$", text) else text


def apart_imaginary(text: str) -> str:
    r"""The imaginary unit apart from what it is multiplied by, so that it is known as one.

    Source: math-verify takes `i` for a variable where a digit touches it.

    Example:
        >>> apart_imaginary("1+274i"), apart_imaginary("1 + 274 i"), apart_imaginary("2\\sin x")
        ('1+274 i ', '1 + 274  i ', '2\\sin x')
    """
    text = re.sub(r"\\text\{\s*i\s*\}|\\imath(?![A-Za-z])", "i", text)
    return re.sub(r"(?<![A-Za-z\\{}_^ ])i(?![A-Za-z_^])|(?<=[} ])i(?![A-Za-z_^])", " i ", text)


def base_in_words(text: str) -> str:
    r"""An index for a base in words.

    Example:
        >>> base_in_words("101 base 2"), base_in_words("101_{\\text{base }2}"), base_in_words("101 (base 2)")
        ('101_{2}', '101_{2}', '101_{2}')
    """
    return re.sub(r"(?<=[\dA-F])[\s_{(]*(?:\\text\{)?\s*(?:in )?base\s*\}?\s*(\d+)\s*[)}]*$", r"_{\1}", text)


def mixed_numbers(text: str) -> str:
    r"""`3\frac{1}{2}` for `3 1/2`.

    Example:
        >>> mixed_numbers("3 1/2"), mixed_numbers("-3 1/2 "), mixed_numbers("3/2")
        ('3\\frac{1}{2}', '-3\\frac{1}{2} ', '3/2')
    """
    return re.sub(r"(?<![\w./])(\d+)\s+(\d+)/(\d+)(?![\w/])", r"\1\\frac{\2}{\3}", text)


def braced_fractions(text: str) -> str:
    r"""`\frac{3}{4}` for `\frac 3 4`, whose digits would be read as 34.

    Example:
        >>> braced_fractions("\\frac 3 4"), braced_fractions("\\frac34x"), braced_fractions("\\frac{3}{4}")
        ('\\frac{3}{4}', '\\frac{3}{4}x', '\\frac{3}{4}')
        >>> braced_fractions("\\log_2 8"), braced_fractions("{5 \\choose 2}")  # the base of a logarithm, too
        ('\\log_{2} 8', '\\binom{5}{2}')
    """
    text = re.sub(r"\{?\s*(\w+)\s*\\choose\s*(\w+)\s*\}?", r"\\binom{\1}{\2}", text)
    text = re.sub(r"(\\log)\s*_\s*(\w)", r"\1_{\2}", text)
    return re.sub(r"\\([dtc]?frac)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}", text)


def without_ordinal(text: str) -> str:
    r"""12 for `12\text{th}`.

    Source: math-verify reads the number.

    Example:
        >>> [without_ordinal(text) for text in ("12\\text{th}", "21^{\\text{st}}", "3rd", "2 \\text{the}")]
        ['12', '21', '3', '2 \\text{the}']
    """
    ending = r"(?:st|nd|rd|th)"
    return re.sub(rf"^(\d+)\s*\^?\s*\{{?\s*(?:\\text\{{\s*{ending}\s*\}}|{ending})\s*\}}?\s*$", r"\1", text)


RULES: tuple[Rule, ...] = (
    plain_characters,
    without_delimiters,
    without_decoration,
    one_text_command,
    without_lead,
    sign_in_words,
    plain_spaces,
    one_ellipsis,
    without_final_stop,
    one_percent,
    without_degrees,
    without_currency,
    without_thousands,
    one_power_of_ten,
    braced_fractions,
    without_ordinal,
    base_in_words,
    without_unit,
    without_final_stop,
    apart_imaginary,
    mixed_numbers,
)


def normalised(text: str) -> str:
    r"""The text by all rules.

    Example:
        >>> normalised("\\text{The answer is } \\$32,\\!348."), normalised("6\\times 10^{13}\\text{ Hz}")
        ('32348', '6\\times10^{13}')
    """
    for rule in RULES:
        text = rule(text)
    return text.strip()
