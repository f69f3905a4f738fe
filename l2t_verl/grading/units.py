r"""Units behind a number: which symbols and words leave its value as it is.

A unit is known, or a word of four letters or more that says nothing about the value. Shorter ones are variables: `2 ab`.
"""

from __future__ import annotations

import re

# Symbols that are units beside a number; a single letter is one only in upright letters or beside another unit.
_SYMBOLS = """
    nm um mm cm dm km ft in yd mi AU ly pc kpc Mpc mph kph kmh fps rpm ng ug mg kg lb lbs oz ml mL dl dL gal cc sq cu ha
    ns us ms sec secs min mins hr hrs yr yrs Hz kHz MHz GHz THz eV keV MeV GeV erg ergs cal kcal kJ MJ mW kW MW kWh dyn kN
    mV kV mA uA uC nC uF nF pF ohm Pa kPa MPa GPa atm bar psi mol rad sr dB KB MB GB TB kb bps lm lx Wb Gy Sv Bq
""".split()  # noqa: SIM905
_LETTERS = "mgshlLJNWVAKFCT"
_THINGS = "day cup ton men way egg cat dog cow hen car pen bag box".split()  # counted, of three letters  # noqa: SIM905
# Words that make another value of the number before them, or take it back
OPERATORS = """
    and or if for when where unless except not no wrong incorrect false any all is are was be of to out up with
    at least most more less fewer greater than over under above below between
    plus minus times divided multiplied root squared cubed doubled tripled halved negative factorial factorials
    choose power base modulo mod remainder
    half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths
    ninth ninths tenth tenths twelfth twelfths twentieth twentieths hundredth hundredths thousandth thousandths
    zero one two three four five six seven eight nine ten eleven twelve dozen dozens score
    tens hundred hundreds thousand thousands million millions billion billions trillion even odd max percent th
    sin cos tan cot csc log exp sqrt sinh cosh tanh arcsin arccos arctan arcsinh
""".split()  # noqa: SIM905
_NUMERIC = re.compile(
    r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*=\s*)?(?P<value>(?:[-+\d.,\s/{}()^*]|\\(?:frac|sqrt|pi|times|cdot|circ)(?![A-Za-z]))*)"
)
_UPRIGHT = r"(\s*\\text\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?\s*)"
_QUOTIENT = re.compile(rf"\\[dt]?frac\s*\{{{_UPRIGHT}\}}\s*\{{{_UPRIGHT}\}}")
_WORD = re.compile(r"[A-Za-z][a-z]{3,}")
_PART = re.compile(r"(?P<name>[A-Za-z]+)\.?(?:\^?(?P<power>-?\d))?")
_GREEK = (
    (re.compile(r"\\mu(?![A-Za-z])\s*(?:\\text)?[\s{]*(?=[A-Za-z])"), "u"),
    (re.compile(r"\\Omega(?![A-Za-z])"), "ohm"),
)


def is_unit(text: str) -> bool:
    r"""Whether a text behind a number is a unit, or words that leave the number as it is.

    Example:
        >>> [is_unit(text) for text in ("min", "\\text{ g}", "sq. units", "km/h", "m s^{-2}", "m^2", "red apples")]
        [True, True, True, True, True, True, True]
        >>> [is_unit(text) for text in ("ab", "m", "mv^2", "\\text{n}", "squared", "or more", "hours 20 minutes", "s^2")]
        [False, False, False, False, False, False, False, False]
    """
    for letter, name in _GREEK:
        text = letter.sub(name, text)
    plain = "\\text" not in text
    text = re.sub(r"\\text\s*(?=\{)|\\cdot(?![A-Za-z])|\\(?=\s)", " ", text)
    text = re.sub(r"[\s}]*\^\s*\{?\s*(-?\d)\s*\}?", r"^\1", text).replace("{", " ").replace("}", " ")
    parts = [_PART.fullmatch(part) for part in re.sub(r"\bper\b|/", " / ", text).split() if part != "/"]
    if not parts or not all(parts):
        return False
    names = [(part["name"], part["power"]) for part in parts if part]
    if any(name.lower() in OPERATORS for name, _ in names):
        return False
    alone = plain and "/" not in text and "^-" not in text
    if all(_is_known(name, power, alone) for name, power in names):
        return True
    return all(_is_known(name, None, True) or (name.islower() and len(name) > 1) for name, _ in names) and any(
        _WORD.fullmatch(name) for name, _ in names
    )


def _is_known(name: str, power: str | None, alone: bool) -> bool:
    """Whether a symbol is a unit, and a single letter one where it stands: `m` alone is a variable, `m^2` is an area."""
    if len(name) == 1:
        return name in _LETTERS and (not alone or (name == "m" and power is not None))
    return name in _SYMBOLS or name in _THINGS or _WORD.fullmatch(name) is not None


def without_unit(text: str) -> str:
    r"""No unit after a number; a single letter beside it is a variable.

    Source: `245 yd`, `9\text{ min}`, `\frac{4}{3} \mathrm{~m} / \mathrm{s}`, `.088 m^2` (DeepScaleR, Minerva).

    Example:
        >>> [without_unit(text) for text in ("245 yd", "12cm", "9\\text{ min}", "24 \\text{ cm}^2", "3 \\text{m/s}")]
        ['245', '12', '9', '24', '3']
        >>> without_unit("60 \\frac{\\text{km}}{\\text{h}}"), without_unit("x = 5 \\text{ cm}"), without_unit("5\\Omega")
        ('60', 'x = 5', '5')
        >>> [without_unit(text) for text in ("6m", "2 ab", "3:30 PM", "2 sin x", "2 squared", "\\frac12 mv^2", "4\\text{n}")]
        ['6m', '2 ab', '3:30 PM', '2 sin x', '2 squared', '\\frac12 mv^2', '4\\text{n}']
    """
    found = _NUMERIC.match(_QUOTIENT.sub(r" \1/\2", text))
    if not found or not re.search(r"\d|\\pi", found["value"]):
        return text
    before, unit = found[0].rstrip(" /"), found.string[found.end() :]
    is_whole = before.count("{") == before.count("}") and before.count("(") == before.count(")")
    return before.strip() if is_whole and is_unit(unit) else text
