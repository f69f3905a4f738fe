"""Public reports of answers that were graded wrongly, as their users would meet them, and more of each kind."""

import asyncio
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import byte_tokenizer

from l2t_verl import data, episodes, gain
from l2t_verl.data.rows import file_rows
from l2t_verl.evaluate.engines import _whole_text
from l2t_verl.grading import Grader, Unparsable, grade_math, grade_math_score
from l2t_verl.grading.code import judge, program_of
from l2t_verl.inspector.records import Record, Skipped, read
from l2t_verl.thought import Marks, answer_part

FIXTURES = Path(__file__).parent / "fixtures"
CASES = [json.loads(line) for line in (FIXTURES / "grading_cases.jsonl").read_text().splitlines()]
MATHEMATICS = [(case["response"], case["truth"], case["right"]) for case in CASES if "response" in case]
PROGRAMS = [case["program"] for case in CASES if "program" in case]
CLOSE = (
    "def has_close_elements(numbers, threshold):\n"
    "    return any(abs(a-b)<threshold for i,a in enumerate(numbers) for b in numbers[i+1:])"
)
LAMBDA = CLOSE.replace("def has_close_elements(numbers, threshold):\n    return", "lambda numbers, threshold:")
HELPER = "def near(a, b, d): return math.fabs(a - b) < d"
WITH_HELPER = CLOSE.replace("abs(a-b)<threshold", "near(a, b, threshold)")
TESTS = {
    "source": "def check(candidate):\n    assert candidate([1.0, 1.1], 0.5)\n    assert not candidate([1.0, 9.1], 0.5)",
    "entry": "has_close_elements",
}
MORE = [
    ("<think>5</think>", "5", False),
    ("</think>\\boxed{5}", "5", True),
    ("<think>a</think>b<think>c</think>The answer is 4.", "4", True),
    ("\\boxed{¥500}", "500", True),
    ("\\boxed{5\\text{ USD}}", "5", True),
    ("\\boxed{1.5 \\times 10^3}", "1500", True),
    ("\\boxed{3\\cdot10^{8}}", "3e8", True),
    ("\\boxed{2.5E-4}", "0.00025", True),
    ("\\boxed{3.0 \\times 10^8}", "3e8", True),
    ("\\boxed{3.1 \\times 10^8}", "3e8", False),
    ("\\boxed{1.2e-20}", "1.3e-20", False),
    ("\\boxed{0}", "1e-17", False),
    ("\\boxed{6}", "6m", False),
    ("\\boxed{2}", "\\hbar\\omega(v+1/2)-\\frac{E_0^2e^2}{2m\\omega^2}", False),
    ("\\boxed{5}", "5;", True),
    ("\\boxed{1~234}", "1234", True),
    ("\\boxed{1\\text{,}234}", "1234", True),
    ("\\boxed{45^{\\circ}}", "45", True),
    ("\\boxed{45°}", "45^\\circ", True),
    ("\\boxed{25\\text{ percent}}", "25\\%", True),
    ("\\boxed{2500\\%}", "25\\%", False),
    ("\\boxed{3+4i}", "3 + 4 i", True),
    ("\\boxed{3-4i}", "3 + 4i", False),
    ("\\boxed{B.}", "B", True),
    ("Answer: [B]", "B", True),
    ("\\boxed{(A) and (B)}", "A", False),
    ("\\boxed{\\text{Yes, because it is even.}}", "yes", True),
    ("The answer is no.", "yes", False),
    ("<answer>\\boxed{12}</answer>", "12", True),
    ("<answer>1</answer> no <answer>2</answer>", "2", True),
    ("#### 3. Add\nThe answer is 7.", "7", True),
    ("#### Final Answer: 12", "12", True),
    ("$x=\\boxed{1}$ or $x=\\boxed{2}$", "1,2", True),
    ("\\boxed{1} and \\boxed{2}", "2", False),
    ("\\boxed{½}", "0.5", True),
    ("\\boxed{2√3}", "2\\sqrt{3}", True),
    ("\\boxed{π/4}", "\\frac{\\pi}{4}", True),
    ("\\boxed{x²+1}", "x^2+1", True),
    ("\\boxed{10:30}", "5:15", False),
    ("\\boxed{3:2}", "6:4", True),
    ("\\boxed{12_7}", "12_5", False),
    ("\\boxed{\\text{Nevely}}", "\\text{Evelyn}", False),
]
# In a box: units are left out, whatever they are; letters and words that make another value are not.
UNITS = [
    *[(number, f"{number}{unit}", True) for number, unit in (("9", "\\text{ min}"), ("40", " min"), ("12", "\\text{ sec}"))],
    *[
        (f"5{unit}", "5", True)
        for unit in (
            " min", "\\,cm", "\\text{ secs}", "\\Omega", "\\mu m", "\\ \\mu\\text{m}", " red apples", "\\text{ men}", " m^2",
            " m/s^2", " \\frac{\\text{km}}{\\text{h}}", "\\ \\mathrm{m\\cdot s^{-2}}",
            " \\mathrm{km\\,h^{-1}}", " miles per hour",
        )
    ],
    ("x = 5 \\text{ cm}", "5", True),
    ("x = 6 \\text{ cm}", "5", False),
    ("8 min", "9\\text{ min}", False),
    *[
        (f"2{rest}", "2", False)
        for rest in (
            " ab", " rs", "\\text{n}", "\\mathrm{e}", "\\mathrm{dx}", " AB", " ABCD", " squared", "\\text{ squared}",
            " thirds", " halves", " over 3", " root 3", " divided by 3", " dozen", " hours 20 minutes", "\\text{ or more}",
            " if even", " s^2", " max",
        )
    ],
    *[("2", f"2{rest}", False) for rest in (" ab", " rs", "\\text{n}", " \\mathrm{~ab}", " halves", " squared")],
    ("\\frac12", "\\frac{1}{2} mv^2", False),
    ("\\frac{1}{2} gt^3", "\\frac{1}{2} gt^2", False),
    ("3 cd", "3 ab", False),
    ("7 factorial", "7", False),
    ("10\\text{ wrong}", "10", False),
]  # fmt: skip
# Numbers that are next to nothing, in relations.
TINY = [
    *[
        (f"{of}3\\times10^{{-19}}", f"{of}8.224\\times10^{{-19}}", False)
        for of in ("x=", "E=-", "x>", "x \\ne ", "0<x<", "2x=")
    ],
    *[(f"{of}3e-19", f"{of}0.3 \\cdot 10^{{-18}}", True) for of in ("x=", "E=-", "x>", "x \\ne ", "0<x<")],
    ("E=-3e-19", "E=8e-19", False),
    ("x=1e-16", "x=0", False),
    ("x>0", "x>1e-16", False),
    ("10^{-20}", "x=10^{-21}", False),
    ("x=10^{-20}", "10^{-21}", False),
    ("x=10^{-20}", "10^{-20}", True),
    ("m=0", "4.6e-24", False),
    ("1/0", "2/0", False),
    ("x=1/0", "x=2/0", False),
    ("4 million", "4 billion", False),
    ("4 thousand", "4 million people", False),
    ("4 million", "4000000", True),
    ("4 million", "4 million people", True),
]

# Behind each of these a statement is read as a whole, or not at all.
ANNOUNCED = [
    (f"{mark}{said}", truth, right)
    for mark in ("The answer is ", "#### ", "**Answer:** ")
    for said, truth, right in [
        ("$3 n^2$.", "3", False), ("$3 n^2$.", "3n^2", True), ("3 n^2", "3", False), ("3 n^2", "3n^2", True),
        ("$3 (x+1)$.", "3", False), ("3 (x+1)", "3(x+1)", True), ("$3 i$.", "3", False), ("$2 n$", "2n", True),
        ("$5 (\\text{mod } 7)$.", "5", False), ("3 (mod 5)", "3", False), ("3 sin x", "3", False),
        ("2 times 5", "2", False), ("2 times 5", "5", False), ("2 over 3.", "2", False), ("2 over 3.", "3", False),
        ("7 factorial.", "7", False), ("3 hours 20 minutes.", "3", False), ("3 hours 20 minutes.", "20", False),
        ("12 apples and 3 pears", "12", False), ("3 or more", "3", False), ("5 more than 6.", "5", False),
        ("3 in 5", "3", False), ("10 (or 12 if both count).", "10", False), ("$5$ or $6$.", "5", False),
        ("$5$ or $6$.", "5,6", True), ("24!", "24", True), ("5!", "120", True), ("5!", "5", True), ("5!", "25", False),
        ("18 dollars per day because 3 + 4 is 7.", "18", True), ("5 boys and girls.", "5", True), ("$12$ cm.", "12", True),
        ("$5, which is $2 more", "5", True), ("101 base 2", "101", True), ("2 million", "2000000", True),
        ("not 5.", "5", False), ("less than 5.", "5", False), ("between 5 and 6.", "6", False), ("at most 5.", "5", False),
        ("negative 5.", "5", False), ("negative 5.", "-5", True), ("−5.", "-5", True), ("−5.", "5", False),
        ("twice 5", "5", False), ("5 × 10^14 Hz.", "5e14", True),
    ]
]  # fmt: skip
# Nothing announces these.
AT_THE_END = [
    ("−5", "-5", True), ("**−5**", "-5", True), ("x = −5", "-5", True), ("So it is −5", "5", False),
    ("So it is √2", "\\sqrt{2}", True), ("So it is ½", "0.5", True), ("It is 4.5e33.", "4.5e33", True),
    ("It is 4.5e33.", "33", False), ("So the frequency is 4.5 × 10^14 Hz.", "4.5e14", True),
    ("So the point is (3,4)", "(3,4)", True),
    ("It cannot be 5.", "5", False), ("It is less than 5", "5", False), ("It is not 5.", "5", False),
    ("So x ≥ 5", "5", False), ("so $x \\ne 5$", "5", False), ("Hence $n \\equiv 2 \\pmod 5$", "5", False),
    ("It lies between 5 and 6.", "6", False), ("#### 1. First\nwe add 2\n#### 2. Second\nwe get 12", "12", True),
    ("#### 1. First\nwe add 2\n#### 2. Second\nwe get 12", "2", False),
    ("Option C is correct.", "C", True), ("Option C is incorrect.", "C", False), ("The answer is A.\n\nB", "B", False),
]  # fmt: skip
# In a box, too.
WORDS = [
    *[
        (said, "Alice", False)
        for said in ("Alice, Bob", "\\text{Alice, Bob}", "Alice; Bob", "Alice or Bob", "Alice (incorrect)")
    ],
    *[(said, "Alice", True) for said in ("Alice", "Alice, because she runs", "Alice (not Bob)", "Alice, who runs")],
    *[(said, "Yes", False) for said in ("Yes, No", "yes; no", "yes, but no", "Not yes")],
    ("odd; even", "odd", False),
    *[(said, "C", False) for said in ("(C) is wrong", "C: wrong", "(C) incorrect", "C is not correct")],
    *[(said, "C", True) for said in ("(C)", "C is correct", "C: 12")],
    *[(said, "5", True) for said in ("\\textcolor{red}{5}", "\\color{red}{5}", "\\underline{5}")],
    ("5\\choose 2", "10", True),
    ("{5 \\choose 2}", "10", True),
    ("-5", "\\text{negative } 5", True),
]


@pytest.mark.parametrize(("response", "truth", "right"), MATHEMATICS + MORE + ANNOUNCED + AT_THE_END)
def test_mathematics(response, truth, right):
    try:
        assert grade_math(response, truth) is right
    except Unparsable:
        assert not right


@pytest.mark.parametrize(("answer", "truth", "right"), UNITS + TINY + WORDS)
def test_a_box(answer, truth, right):
    test_mathematics(f"\\boxed{{{answer}}}", truth, right)


def test_a_thought_that_is_open_states_nothing():
    with pytest.raises(Unparsable, match="inside its thought"):
        grade_math("So \\boxed{15}. But wait", "15", opened=True)
    assert grade_math("So \\boxed{15}.", "15")
    marks = Marks.of("[THINK]", "\n[/THINK]")
    assert grade_math("[THINK]\\boxed{1}[/THINK]\\boxed{2}", "2", marks)
    assert not grade_math("[THINK]\\boxed{1}[/THINK]\\boxed{2}", "1", marks)


@pytest.mark.parametrize(
    "response",
    [
        *PROGRAMS,
        f"```python\n{CLOSE}\n```\nOutput:\n```\nTrue\n```",
        f"~~~python\n{CLOSE}\n~~~",
        f"````python\n{CLOSE}\n````",
        f"```Python3 linenums\n{CLOSE}\n```",
        f"<think>```python\ndef has_close_elements(): 1\n```</think>\n```python\n{CLOSE}\n```",
        f"```bash\npip install x\n```\n```python\n{CLOSE}",
        f"```python\n{CLOSE}\n```\nUse:\n```python\nfrom solution import has_close_elements\nhas_close_elements([], 1)\n```",
        f"```python\n{CLOSE}\n```\nUse:\n```python\nimport has_close_elements\n```",
        f"```python\nclose: object = {LAMBDA}\nhas_close_elements: object = close\n```\n```python\nprint(1)\n```",
        f"```python\nhas_close_elements, other = {LAMBDA}, 1\n```\n```python\nprint(1)\n```",
        f"```python\nif True:\n{textwrap.indent(CLOSE, '    ')}\n```\n```python\nprint(1)\n```",
        f"```python\nimport math\n{HELPER}\nprint(x)\n```\n```python\n{WITH_HELPER}\n```",
        "```python\n>>> " + CLOSE.replace("\n", "\n... ") + "\n>>> has_close_elements([], 1)\nFalse\n```",
        f"- ```python\n{textwrap.indent(CLOSE, '  ')}\n  ```\n",
        f"10. ```python\n{textwrap.indent(CLOSE, '    ')}\n    ```\nThat is it.",
    ],
)
def test_programs(response):
    assert judge(response, TESTS).passed


def test_the_last_definition_counts():
    response = (
        "```python\ndef f(): return 1\n```\nBetter:\n```python\ndef f(): return 2\n```\n```python\nassert f() == 2\n```"
    )
    assert program_of(response, {"source": "assert f() == 2"}) == "def f(): return 2\n"


def test_only_what_is_needed_of_earlier_blocks_comes_along():
    response = "```python\ndef near(): return 1\ndef f(): return 2\nexit()\n```\n```python\ndef f(near): return near\n```"
    assert program_of(response, {"source": "f(1)"}) == "def f(near): return near\n"
    preamble = {"source": "f()", "preamble": "def near(): return 3"}
    response = "```python\ndef near(): return 1\n```\n```python\ndef f(): return near()\n```"
    assert program_of(response, preamble) == "def f(): return near()\n"


def test_marks_of_the_configuration_cut_episodes_too():
    tokenizer = byte_tokenizer()
    text = "First add.\n\nThen 6*7=42.[/THINK]\n\nThe product is 42.\n\nHence \\boxed{42}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    marks = gain.ForcingTemplate(think_open="[THINK]", think_close="\n[/THINK]").marks
    ends = episodes.segment(ids, tokenizer, method="paragraphs", thinking=True, marks=marks)
    assert tokenizer.decode(ids[ends[-1] :]).startswith("[/THINK]")
    assert answer_part(text, marks, True).endswith("\\boxed{42}")


def test_a_wrapped_truth_has_the_target_of_the_plain_one():
    tokenizer, template = byte_tokenizer(), gain.ForcingTemplate()
    ids = tokenizer.encode("49+49 = 98.", add_special_tokens=False)
    made = {
        str(gain.answer_targets(tokenizer, [1], ids, [len(ids)], answer, template))
        for answer in ("98", "\\[ 98 \\]", "\\boxed{98}", "$98$")
    }
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "\ufeffquestion,answer\na?,5", [("a?", "5")]),
        ("a.csv", "question,answer\na\u2028b?,5", [("a\u2028b?", "5")]),
        ("a.csv", "question,answer\na\x0cb?,5\r\nc?,6", [("a\x0cb?", "5"), ("c?", "6")]),
        ("a.jsonl", '{"question":"a?","answer":NaN}', [("a?", "")]),
        ("a.jsonl", '\ufeff{"question":"a?","answer":"$98$"}', [("a?", "98")]),
        ("a.jsonl", '{"prompt":[{"role":"user","content":"a?"}],"reward_model":{"ground_truth":"5"}}', [("a?", "5")]),
    ],
)  # fmt: skip
def test_files_as_people_have_them(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    assert len(file_rows(tmp_path / name)) == len(expected)
    assert [(problem.question, problem.answer) for problem in data.load("math500", tmp_path / name)] == expected


def test_half_a_character_is_named_and_skipped(tmp_path):
    row = '{"problem":"2+3?","response":"It is %s \\\\boxed{5}","answer":"5"}\n'
    rows = row % "\\ud83d" + row % "fine"
    (tmp_path / "a.jsonl").write_text(rows)
    first, second = read(tmp_path / "a.jsonl")
    assert isinstance(first, Skipped)
    assert "U+D83D" in first.reason
    assert isinstance(second, Record)


def test_a_server_that_gives_only_a_thought_gives_no_answer():
    message = SimpleNamespace(reasoning_content="It is \\boxed{5}", content=None)
    for is_cut in (True, False):
        assert not (answer_part(_whole_text(message, is_cut)) or "")


def test_the_pool_takes_the_marks():
    async def run():
        grader = Grader(workers=1)
        try:
            return await grader.grade(grade_math_score, "\\boxed{1}", ["1"], Marks(), True)
        finally:
            grader.close()

    assert asyncio.run(run()).status == "unparsable"
