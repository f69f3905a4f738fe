"""Whether two readings are one answer: numbers by their values, relatively; the rest by math-verify."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from l2t_verl.grading.reading import Number, Reading, number, read

ROUNDED = 6  # decimals, and significant digits, from which on a decimal may stand for what it is rounded from
PRECISION = 30  # digits that expressions are evaluated to
TINY = 1e-9  # numbers below it are compared by us in relations, too
CLOSE = 1e-22  # relative difference of what is equal but for the evaluation
_REASON = re.compile(
    r"\s*(?:because|since|as|for|so|it|its|they|he|she|we|there|this|that|these|which|who|where|with|namely|i\.?e|not)\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:wrong|incorrect|false|no|or|but|is not|isn't|not (?:correct|right|true|it))\b", re.IGNORECASE
)


def equal(truth: Reading, answer: Reading) -> bool | None:
    r"""Whether the answer is the truth; None where the truth is read as mathematics and the answer is not.

    Example:
        >>> from l2t_verl.grading.reading import read
        >>> equal(read("0.5"), read("\\frac{1}{2}")), equal(read("8.224e-19"), read("3e-17"))
        (True, False)
        >>> equal(read("50\\%"), read("0.5")), equal(read("0, \\dots, 8"), read("8")), equal(read("3"), read("0, \\dots, 3"))
        (True, False, None)
    """
    if truth.number is not None and answer.number is not None:
        return _percentages(truth, answer, lambda scale, other: _same(truth.number, answer.number, scale, other))
    if truth.scaled or answer.scaled:
        both = truth.scaled is not None and answer.scaled is not None
        return any(equal(a, b) is True for a in _scales(truth, both) for b in _scales(answer, both))
    if truth.canonical == answer.canonical and truth.is_percentage == answer.is_percentage:
        return True
    if truth.options and answer.options:
        return truth.options == answer.options
    if truth.is_only_option and (letter := answer.option) is not None:
        return letter == truth.option
    if answer.is_only_option and truth.option is not None and re.search(r"[\s:.]", truth.text):  # "(C) 12"
        return answer.option == truth.option
    if (text := truth.of_option) is not None and answer.option is None:
        return equal(read(text), answer)
    if (text := answer.of_option) is not None and truth.option is None:
        return equal(truth, read(text))
    if (words := truth.words) is not None:
        return _same_words(words, answer)
    if (based := truth.based) is not None or answer.based is not None:
        return _same_based(based, answer.based, truth, answer)
    if truth.ratio and answer.ratio:
        return _same_ratio(truth.ratio, answer.ratio)
    if truth.ratio and truth.ratio[2]:  # a time of day is no quotient
        return False
    if truth.expression is None:
        return False
    if answer.expression is None:
        unit = _with_unit(answer)
        return None if unit is None else equal(truth, unit)
    return _percentages(truth, answer, lambda scale, other: _same_expression(_of(truth, scale), _of(answer, other))) or (
        (unit := _with_unit(answer)) is not None and truth.number is not None and equal(truth, unit) is True
    )


def _scales(reading: Reading, both: bool) -> list[Reading]:
    r"""The number with "million", and the one before it, where the other side has no such word, as in GSM8K's truths.

    Example:
        >>> from l2t_verl.grading.reading import read
        >>> [reading.text for reading in _scales(read("4 million"), False)], len(_scales(read("4 million"), True))
        (['4\\times10^{6}', '4'], 1)
    """
    if reading.scaled is None:
        return [reading]
    value, power = reading.scaled
    found = [Reading(f"{value}\\times10^{{{power}}}", reading.is_percentage)]
    return found if both or power < 3 else [*found, Reading(value, reading.is_percentage)]


def _percentages(truth: Reading, answer: Reading, same: Any) -> bool:
    """25 % is 25 %, 25 and 0.25."""
    if truth.is_percentage == answer.is_percentage:
        return bool(same(1, 1))
    hundredth = Fraction(1, 100)
    return bool(same(1, 1) or (same(hundredth, 1) if truth.is_percentage else same(1, hundredth)))


def _same(a: Number | None, b: Number | None, scale: Any = 1, other: Any = 1) -> bool:
    """Equal exactly, or one is the other rounded to no fewer than `ROUNDED` decimals and significant digits."""
    if a is None or b is None:
        return False
    x, y = a.value * Fraction(scale), b.value * Fraction(other)
    if x == y:
        return True
    places = [n.decimals + (2 if s != 1 else 0) for n, s in ((a, scale), (b, other)) if n.decimals is not None]
    digits = [n.digits for n in (a, b) if n.decimals is not None]
    if not places or min(places) < ROUNDED or min(digits) < ROUNDED:
        return False
    return abs(x - y) <= Fraction(1, 2 * 10 ** min(places))


def _same_words(words: str, answer: Reading) -> bool:
    r"""The same words, or the truth's with a reason after them; after a comma, what is no reason makes a list.

    Example:
        >>> from l2t_verl.grading.reading import read
        >>> [_same_words("yes", read(text)) for text in ("Yes, it is", "Yes: 4", "Yes (not no)", "yes as 2 is even")]
        [True, True, True, True]
        >>> [_same_words("yes", read(text)) for text in ("Yes, No", "yes; no", "yes, but no", "Yes (incorrect)")]
        [False, False, False, False]
    """
    found = answer.words
    article = re.compile(r"^(?:the|a|an) ")
    if found is not None and article.sub("", found) == article.sub("", words):
        return True
    said = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", answer.text).strip()
    parts = re.split(r"([.,;:!(]|\s(?=(?:because|since|as)\s))", said, maxsplit=1)
    if len(parts) < 3 or not words or " ".join(re.findall(r"[^\W_]+", parts[0].casefold())) != words:
        return False
    if _REASON.match(parts[2]):
        return True
    return parts[1] not in ",;" and not _TAKEN_BACK.search(parts[2])


def _same_based(truth: tuple[str, str] | None, answer: tuple[str, str] | None, first: Reading, second: Reading) -> bool:
    """The same digits, and the same base where both name one."""
    if truth and answer:
        return truth == answer
    digits = truth[0] if truth else first.canonical.lower()
    return digits == (answer[0] if answer else second.canonical.lower())


def _same_ratio(truth: tuple[list[int], str, bool], answer: tuple[list[int], str, bool]) -> bool:
    """The same time, or parts in the same proportion."""
    if truth[1] and answer[1] and truth[1] != answer[1]:
        return False
    if truth[0] == answer[0]:
        return True
    if len(truth[0]) != len(answer[0]) or truth[2] or truth[1] or 0 in truth[0] or 0 in answer[0]:
        return False
    return len({Fraction(a, b) for a, b in zip(truth[0], answer[0], strict=True)}) == 1


def _with_unit(answer: Reading) -> Reading | None:
    """The number before a letter that may be a unit: `6m` may be six metres in an answer, though not in a truth."""
    found = re.fullmatch(r"([-+]?[\d.]+(?:\\times10\^\{-?\d+\})?)\s*([A-Za-z])", answer.text.strip())
    return Reading(found[1], answer.is_percentage) if found and found[2] in "msghLlJNWVAKFCd" else None


def _of(reading: Reading, scale: Any) -> Any:
    from sympy import Rational

    return reading.expression if scale == 1 else reading.expression * Rational(scale.numerator, scale.denominator)


def _same_expression(truth: Any, answer: Any) -> bool:
    from math_verify import verify

    if _is_undefined(truth) or _is_undefined(answer):
        return False
    truth, answer = _one_imaginary_unit(truth, answer)
    if _is_number(truth) and _is_number(answer):
        return _same_value(truth, answer)
    exact = _exact(truth), _exact(answer)
    # the look at a point first: it is fast where the answer is wrong
    return not _differ(*exact) and verify([exact[0]], [exact[1]], timeout_seconds=None)


def _is_undefined(found: Any) -> bool:
    """Whether it has no value, as 1/0 has none: two such are equal only as they are written."""
    from sympy import nan, zoo

    return bool(found.has(nan, zoo))


def _one_imaginary_unit(truth: Any, answer: Any) -> tuple[Any, Any]:
    """The variable i is the unit where the other side has the unit: math-verify decides for each side alone."""
    from sympy import I

    if truth.has(I) == answer.has(I):
        return truth, answer
    unit = {name: I for of in (truth, answer) for name in of.free_symbols if str(name) == "i"}
    return truth.xreplace(unit), answer.xreplace(unit)


def _exact(found: Any) -> Any:
    """The same with decimals as fractions; a relation stays one, even if it is false."""
    from sympy import Float, Rational
    from sympy.core.relational import Relational

    try:
        if isinstance(found, Relational):
            return found.func(_exact(found.lhs), _exact(found.rhs), evaluate=False)
        floats = found.atoms(Float)
        return found.xreplace({value: Rational(str(value)) for value in floats}) if floats else found
    except Exception:  # of matrices and of sets that are not evaluated
        return found


def _is_number(found: Any) -> bool:
    from sympy import Expr

    return isinstance(found, Expr) and not found.free_symbols and found.is_number is True


def _same_value(truth: Any, answer: Any) -> bool:
    """Numbers: exactly where they are fractions, else evaluated, and compared relatively."""
    from sympy import Rational

    a, b = _exact(truth).doit(), _exact(answer).doit()
    if a == b:
        return True
    if isinstance(a, Rational) and isinstance(b, Rational):
        return _same(_written(truth), _written(answer))
    x, y = a.evalf(PRECISION), b.evalf(PRECISION)
    size = max(abs(x), abs(y))
    if not size.is_finite:
        return bool(x == y)
    if abs(x - y) <= CLOSE * size:
        return True
    return any(_rounds(of, value) for of, value in ((truth, y), (answer, x)))


def _written(found: Any) -> Number | None:
    """A number that sympy holds as it was written."""
    from sympy import Float, Rational

    if isinstance(found, Float):
        return number(re.sub(r"0+$", "", str(found)))
    if isinstance(found, Rational):
        return Number(Fraction(int(found.p), int(found.q)))
    return None


def _rounds(decimal: Any, value: Any) -> bool:
    """Whether a decimal is the rounding of an exact value."""
    from sympy import Float

    if not isinstance(decimal, Float) or not value.is_real:
        return False
    found = _written(decimal)
    if found is None or found.decimals is None or min(found.decimals, found.digits) < ROUNDED:
        return False
    return bool(
        abs(value - found.value.numerator / Float(found.value.denominator, PRECISION))
        <= Float(10, PRECISION) ** -found.decimals / 2
    )


def _differ(truth: Any, answer: Any) -> bool:
    """Whether parts of what math-verify calls equal are not: it takes what is below 1e-15 for nothing."""
    from sympy import And, Eq, Expr, FiniteSet, Interval, MatrixBase, Tuple

    if (bounds := _tiny_bounds(truth, answer)) is not None:
        return any(all(_unequal(a, b) for b in bounds[1]) for a in bounds[0]) or len(bounds[0]) != len(bounds[1])
    if isinstance(truth, MatrixBase) and isinstance(answer, MatrixBase) and truth.shape == answer.shape:
        return any(_unequal(a, b) for a, b in zip(truth, answer, strict=True))
    if isinstance(truth, (Tuple, Interval)) and isinstance(answer, type(truth)):
        return any(_unequal(a, b) for a, b in zip(truth.args[:2], answer.args[:2], strict=False))
    if isinstance(truth, FiniteSet) and isinstance(answer, FiniteSet):
        if all(isinstance(part, Eq) for part in (*truth.args, *answer.args)):
            return any(all(_differ(a, b) for b in answer.args) for a in truth.args)
        numbers = [part for part in truth.args if _is_number(part)]
        others = [part for part in answer.args if _is_number(part)]
        return len(others) == len(answer.args) and any(all(_unequal(a, b) for b in others) for a in numbers)
    if isinstance(truth, Eq) and isinstance(answer, Eq):
        return _is_other_equation(truth, answer)
    if isinstance(truth, And) and isinstance(answer, And) and len(truth.args) == len(answer.args):
        return any(_differ(a, b) for a, b in zip(truth._unsorted_args, answer._unsorted_args, strict=True))
    if not (isinstance(truth, Expr) and isinstance(answer, Expr)) or truth.free_symbols != answer.free_symbols:
        return False
    values = _at_points(truth, answer)
    return values is not None and any(_apart(x, y) for x, y in values)


def _tiny_bounds(truth: Any, answer: Any) -> tuple[Any, Any] | None:
    r"""Where relations in one unknown begin and end to hold, if that may be told by numbers that are next to nothing.

    Source: `E = 3 \times 10^{-19}` for `E = 8.224 \times 10^{-19}`, which math-verify takes for equal.

    Example:
        >>> from l2t_verl.grading.reading import expression
        >>> _tiny_bounds(expression("x=10^{-20}"), expression("x>10^{-21}"))
        ({1/100000000000000000000}, {1/1000000000000000000000})
        >>> _tiny_bounds(expression("10^{-20}"), expression("x=10^{-21}"))
        ({1/100000000000000000000}, {1/1000000000000000000000})
    """
    from sympy import FiniteSet, Set
    from sympy.logic.boolalg import Boolean

    if not any(isinstance(of, Boolean) for of in (truth, answer)) or not (_is_tiny(truth) or _is_tiny(answer)):
        return None
    try:
        sets = [
            _without_functions(of).as_set() if isinstance(of, Boolean) else FiniteSet(of.doit()) for of in (truth, answer)
        ]
        bounds = [of.boundary for of in sets if isinstance(of, Set)]
    except Exception:  # of many kinds: more than one unknown, what cannot be solved
        return None
    return (bounds[0], bounds[1]) if all(isinstance(of, FiniteSet) for of in bounds) else None


def _is_tiny(found: Any) -> bool:
    """Whether it holds a number that math-verify may take for nothing."""
    from sympy import preorder_traversal

    numbers = (part.evalf(PRECISION) for part in preorder_traversal(found) if _is_number(part))
    return any(value.is_finite and 0 < abs(value) < TINY for value in numbers)


def _is_other_equation(truth: Any, answer: Any) -> bool:
    r"""Whether equations that math-verify may call equal are not.

    It compares their real solutions: all that have none are one to it, `r^2+r+1=0` and `r^2+r+4=0`, `1=2` and `3=4`.
    """
    from sympy import Expr, solve

    given, truth, answer = truth, _without_functions(truth), _without_functions(answer)
    sides = [(truth.lhs, answer.lhs), (truth.rhs, answer.rhs)]
    if not all(isinstance(side, Expr) for pair in sides for side in pair):
        return False
    if all(_is_number(side) for pair in sides for side in pair):
        return any(_unequal(a, b) for a, b in sides)
    if truth.free_symbols == answer.free_symbols:
        values = _at_points(truth.lhs - truth.rhs, answer.lhs - answer.rhs)
        if values is None:
            return False
        (f1, g1), (f2, g2) = values
        if not any(abs(value) > CLOSE for pair in values for value in pair):  # both hold everywhere
            return any(_differ(a, b) for a, b in sides)
        if not _apart(f1 * g2, f2 * g1):  # one is a multiple of the other
            return False
    if truth is not given:  # math-verify would solve for nothing
        return True
    try:
        return not solve(truth, truth.free_symbols)
    except Exception:  # of many kinds; math-verify's own attempt will fail, too
        return False


def _without_functions(found: Any) -> Any:
    """A symbol for each value of a function that is not known, such as f(1): nothing would be free in `f(1) = 0`."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    values = {value: Symbol(str(value), real=True) for value in found.atoms(AppliedUndef)}
    return found.func(*(side.xreplace(values) for side in found.args), evaluate=False) if values else found


def _at_points(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
    """The values of two expressions at two points; None where they have none."""
    from sympy import Rational

    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    found = []
    for first, step, below in ((97, 13, 89), (61, 7, 53)):
        point = {symbol: Rational(first + step * n, below + 2 * n) for n, symbol in enumerate(symbols)}
        try:
            x, y = a.subs(point).evalf(PRECISION), b.subs(point).evalf(PRECISION)
            if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
                return None
            found.append((x, y))
        except Exception:  # of functions that cannot be evaluated there
            return None
    return found


def _apart(x: Any, y: Any) -> bool:
    return bool(abs(x - y) > 1e-9 * max(abs(x), abs(y)))


def _unequal(a: Any, b: Any) -> bool:
    return _is_number(a) and _is_number(b) and not _same_value(a, b)
