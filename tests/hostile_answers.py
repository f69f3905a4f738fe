"""Answers that are meant to break or to hold up a grader, for the tests and the benchmark of grading."""

HOSTILE = {
    "power tower": "\\boxed{10^{10^{10^{10}}}}",
    "power tower, plain": "\\boxed{10^10^10^10}",
    "python's powers": "#### 9**9**9**9",
    "nested parentheses": "\\boxed{" + "(" * 2000 + "4" + ")" * 2000 + "}",
    "only opening ones": "\\boxed{" + "(" * 1_000_000,
    "nested fractions": "\\boxed{" + "\\frac{1}{" * 300 + "1" + "}" * 300 + "}",
    "a megabyte of digits": "\\boxed{" + "7" * 1_000_000 + "}",
    "a megabyte of digits, plain": "#### " + "7" * 1_000_000,
    "an open box": "\\boxed{",
    "many open boxes": "\\boxed{" * 150_000,
    "a factorial": "\\boxed{1000000000!}",
    "many sizes to guess": "\\boxed{" + "\\left(" * 500 + "}",
    "a long sum": "\\boxed{\\sum_{k=1}^{10^{9}} \\frac{1}{k}}",
    "not a character": "\\boxed{\ud800\x00}",
}
