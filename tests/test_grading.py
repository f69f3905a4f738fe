"""Grading: equality of answers in their many forms, and a pool that no sample can break or hold up."""

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hostile_answers import HOSTILE

from l2t_verl.grading import Grader, GradeResult, Unparsable, grade_code_score, grade_math, grade_math_score
from l2t_verl.grading.pool import MEMORY_BYTES

LIMIT = 2.0  # seconds for a sample
START = 30.0  # seconds that fresh processes may need on a slow machine before they take a sample


# What the processes of a pool run; they import this module for it.
def give(value):
    return value


def fail(error):
    raise error


def no_answer():
    raise Unparsable("nothing to see")


class TwoArguments(Exception):
    """Can be pickled, but not rebuilt."""

    def __init__(self, first, second):
        super().__init__(first)


class Poison:
    """Cannot be unpickled where it arrives, or not even pickled where it is sent."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        if self.where == "sender":
            raise RuntimeError("cannot be pickled")
        return __import__, ("no_module_of_this_name",)


def raise_what_cannot_be_rebuilt():
    raise TwoArguments(1, 2)


def leave(how):
    if how == "exit":
        sys.exit(0)
    if how == "_exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


def grade_with_a_note():
    return {"score": 1.0, "note": Poison("sender")}


def hang_in_c():
    """Neither a signal's handler nor another thread gets a turn in here."""
    return sum(range(10**12))


def allocate(size: int):
    blocks = [bytes(64 << 20) for _ in range(size // (64 << 20))]  # never written to, so it takes no real memory
    return float(len(blocks) > 0)


def start_a_process_and_hang(path):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    child.start()
    with open(path, "w") as file:
        file.write(str(child.pid))
    child.join()


async def timed(grading):
    start = time.monotonic()
    return await grading, time.monotonic() - start


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds: float = START) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def processes() -> set[int]:
    """The grading processes of this one (and not the helpers that multiprocessing keeps for itself)."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.NoSuchProcess:  # it has ended, and at most waits to be reaped
            continue
        if "resource_tracker" not in line and "forkserver" not in line:
            found.add(child.pid)
    return found


@pytest.fixture(scope="module")
def grader():
    """One process, so that each sample meets what the one before has left."""
    pool = Grader(workers=1, seconds_per_sample=LIMIT)
    yield pool
    pool.close()


def one(grader, function, *arguments) -> GradeResult:
    return asyncio.run(grader.grade(function, *arguments))


RIGHT = [
    ("so \\boxed{42}.", "42"),
    ("\\boxed{1} no, \\boxed{2}", "2"),  # the last box
    ("\\boxed{4}. The final answer is $5$. I hope it is correct.", "4"),  # a box goes before everything else
    ("\\boxed{4} \\\\ and } or 5", "4"),
    ("\\boxed{\\frac{1}{2}}", "0.5"),
    ("\\boxed{\\dfrac34}", "3/4"),
    ("\\boxed{-\\frac{1}{2}}", "-0.5"),
    ("\\boxed{0.5}", "\\frac{1}{2}"),
    ("\\boxed{3\\frac{1}{2}}", "3.5"),
    ("\\boxed{1,000}", "1000"),
    ("\\boxed{1{,}000}", "1000"),
    ("\\boxed{\\$18}", "18"),
    ("\\boxed{12\\text{ cm}}", "12"),
    ("\\boxed{50\\%}", "50"),
    ("\\boxed{50\\%}", "0.5"),
    ("\\boxed{50\\%}", "50\\%"),
    ("\\boxed{50}", "50\\%"),
    ("\\boxed{x=5}", "5"),
    ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"),
    ("\\boxed{x^2+2x+1}", "(x+1)^2"),
    ("\\boxed{\\{1,2\\}}", "\\{2,1\\}"),
    ("\\boxed{\\text{Monday}}", "Monday"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("\\boxed 7", "7"),
    ("\\boxed{72}", "$72$"),
    ("\\boxed{72}", "so \\boxed{72}"),
    ("#### 42", "42"),
    ("#### 1,234 apples\nDone.", "1234"),
    ("####\n-5", "-5"),
    ("#### 2.50 dollars", "2.5"),
    ("#### 1/2 cup", "0.5"),
    ("#### 3 + 4 = 7", "7"),
    ("The answer is 42.", "42"),
    ("The answer is $\\frac{3}{4}$.", "0.75"),
    ("**Answer:** 7", "7"),
    ("answer is: 1,234,567", "1234567"),
    ("The answer is 18 because 3 + 4 is 7.", "18"),
    ("The answer is 8, since 12 - 7 = 5.", "8"),
    ("The answer is 3 x 4 = 12", "12"),
    ("The answer is 3. No, the answer is 4. I hope that this answer is right.", "4"),
    ("#### 1\nWait.\n#### 2", "2"),
    ("#### 2\nSo the answer is 1.", "2"),  # the more explicit mark
    ("So 3 + 4 = 7. The answer is above.", "7"),
    ("so 3 + 4 = 7", "7"),  # no marker: the end of the response
]
WRONG = [
    ("\\boxed{41}", "42"),
    ("\\boxed{1} no, \\boxed{2}", "1"),
    ("\\boxed{17}", "1"),
    ("\\boxed{1}", "17"),
    ("\\boxed{(1,2)}", "(2,1)"),
    ("\\boxed{\\text{(B)}}", "C"),
    ("\\boxed{\\frac{1}{3}}", "0.333"),
    ("\\boxed{51\\%}", "50"),
    ("#### 5", "-5"),
    ("The answer is 18 because 3 + 4 is 7.", "7"),
    ("The answer is 8, or 9, or 10.", "10"),  # listing candidates
    ("The answer is 8", "7"),
    ("The answer is 3. No, the answer is 4.", "3"),
    ("#### 1\n#### 2", "1"),
]
NO_ANSWER = ["", "   \n", "I do not know", "\\boxed{", "\\boxed{42", "\\boxed{ 42", "\\boxed{42} no, \\boxed{", "\\boxed{}"]


@pytest.mark.parametrize(("response", "truth"), RIGHT)
def test_right_answers_in_their_forms(response, truth):
    assert grade_math(response, truth)


@pytest.mark.parametrize(("response", "truth"), WRONG)
def test_wrong_answers(response, truth):
    assert not grade_math(response, truth)


@pytest.mark.parametrize("response", NO_ANSWER)
def test_a_response_without_an_answer_is_unparsable(response):
    with pytest.raises(Unparsable):
        grade_math(response, "42")


def test_a_truth_without_an_answer_is_unparsable():
    for truth in ("", "   ", []):
        with pytest.raises(Unparsable, match="ground truth"):
            grade_math("\\boxed{42}", truth)


def test_several_accepted_answers():
    assert grade_math("\\boxed{0.5}", ["7", "\\frac{1}{2}"])
    assert grade_math("\\boxed{7}", ("7", "", "1/2"))
    assert not grade_math("\\boxed{8}", ["7", "1/2"])


def test_random_numbers_in_random_forms():
    """A number equals itself however it is written, and not its neighbour."""
    seed = 20250510
    print("seed", seed)
    generator = random.Random(seed)
    forms = ("\\boxed{%s}", "#### %s", "The answer is %s.", "thus\n\\[\\boxed{%s}\\]", "#### %s dollars", "Answer: $%s$")
    for _ in range(200):
        number = generator.choice((generator.randint(-20, 20), generator.randint(-(10**9), 10**9)))
        written = generator.choice((str(number), f"{number:,}", f"{number}.0"))
        response = generator.choice(forms) % written
        assert grade_math(response, str(number)), (response, number)
        assert not grade_math(response, str(number + 1)), (response, number + 1)


def test_the_score_is_one_or_zero():
    assert (grade_math_score("#### 3", "3"), grade_math_score("#### 4", "3")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, GradeResult(1.0, "ok", 1.0)),
        (False, GradeResult(0.0, "ok", 0.0)),
        ({"score": -1.0, "acc": True, "pred": "7"}, GradeResult(-1.0, "ok", 1.0)),
        ({"score": 0.5}, GradeResult(0.5, "ok", 0.5)),
    ],
)
def test_what_scorers_return(value, expected):
    assert GradeResult.of(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"score": 1.0, "acc": float("nan")}, None, {}, "x", [1]])
def test_what_scorers_must_not_return(value):
    with pytest.raises((ValueError, TypeError, KeyError)):
        GradeResult.of(value)


def test_statuses(grader):
    assert one(grader, grade_math_score, "\\boxed{4}", "4") == GradeResult(1.0, "ok", 1.0)
    assert one(grader, grade_math_score, "\\boxed{5}", "4") == GradeResult(0.0, "ok", 0.0)
    assert one(grader, grade_math_score, "hm", "4") == GradeResult(0.0, "unparsable", 0.0)
    assert one(grader, no_answer) == GradeResult(0.0, "unparsable", 0.0)
    assert one(grader, fail, ValueError("x")) == GradeResult(0.0, "error", 0.0)
    assert one(grader, give, {"score": -1.0, "acc": 0}) == GradeResult(-1.0, "ok", 0.0)
    assert one(grader, grade_with_a_note) == GradeResult(1.0, "ok", 1.0)  # only the grade comes back
    assert one(grader, allocate, MEMORY_BYTES // 2).status == "ok"
    assert one(grader, give, float("nan")) == GradeResult(0.0, "error", 0.0)
    assert one(grader, give, "no number") == GradeResult(0.0, "error", 0.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_hostile_answers_score_nothing_and_honest_ones_lose_at_most_the_limit_of_each(workers):
    """Honest samples stand between hostile ones: each waits for those before it, their limits and fresh processes only."""

    async def run():
        pool = Grader(workers=workers, seconds_per_sample=1.0)
        try:
            await pool.grade(give, 0)  # started
            samples = []
            for response in HOSTILE.values():
                samples += [pool.grade(grade_math_score, response, "4"), pool.grade(grade_math_score, "\\boxed{4}", "4")]
            return await timed(asyncio.gather(*samples))
        finally:
            pool.close()

    results, seconds = asyncio.run(run())
    found = dict(zip(HOSTILE, results[::2], strict=True))
    assert all(result.score == 0 for result in found.values()), found
    assert found["power tower"].status == found["python's powers"].status == "timeout"
    assert found["an open box"].status == found["a megabyte of digits"].status == "unparsable"
    assert all(result == GradeResult(1.0, "ok", 1.0) for result in results[1::2]), results
    # each may take its process a second, and one that runs into the limit also the start of the next process
    slow = sum(result.status == "timeout" for result in found.values())
    assert seconds < 20 + (len(found) + 5 * slow) / workers


def test_a_hung_sample_leaves_the_other_process_to_the_others():
    """Neither while it hangs nor while it is ended, though it hangs where no signal's handler runs."""

    async def run():
        pool = Grader(workers=2, seconds_per_sample=LIMIT)
        try:
            await asyncio.gather(pool.grade(time.sleep, 0.5), pool.grade(time.sleep, 0.5))  # both have started
            hung = asyncio.ensure_future(timed(pool.grade(hang_in_c)))
            waits = []
            while not hung.done():
                waits.append(await timed(pool.grade(grade_math_score, "\\boxed{4}", "4")))
            return await hung, waits
        finally:
            pool.close()

    (result, seconds), waits = asyncio.run(run())
    assert result.status == "timeout"
    assert LIMIT <= seconds < LIMIT + 3
    assert len(waits) > 20  # a few milliseconds each
    assert all(grade.score == 1 for grade, _ in waits)
    assert max(seconds for _, seconds in waits) < 2.5  # pebble would wait 3 s for the process to end by itself


SURVIVED = {
    "raises": (fail, (KeyError("x"),), "error"),
    "raises what cannot be rebuilt": (raise_what_cannot_be_rebuilt, (), "error"),
    "raises an interrupt": (fail, (KeyboardInterrupt(),), "error"),
    "exits": (leave, ("exit",), "error"),
    "ends its process": (leave, ("_exit",), "error"),
    "is killed": (leave, ("kill",), "error"),
    "takes too much memory": (allocate, (MEMORY_BYTES * 3 // 2,), "error"),
    "recurses": (grade_math_score, ("\\boxed{" + "{" * 2000 + "4" + "}" * 2000 + "}", "4"), None),
    "hangs": (time.sleep, (600,), "timeout"),
    "is no function": ("grade", (), "error"),
    "cannot be sent": (lambda: 1.0, (), "error"),
    "has an argument that cannot be sent": (give, (Poison("sender"),), "error"),
    "has an argument that cannot be received": (give, (Poison("receiver"),), "error"),
}


@pytest.mark.parametrize("name", SURVIVED)
def test_the_next_sample_is_graded_after_one_that(grader, name):
    function, arguments, status = SURVIVED[name]
    result = one(grader, function, *arguments)
    assert result.score == 0
    assert status is None or result.status == status
    assert one(grader, grade_math_score, "\\boxed{4}", "4") == GradeResult(1.0, "ok", 1.0)


def test_a_process_that_is_killed_while_it_idles(grader):
    """As the kernel does when memory is short; pebble gives up its whole pool then."""
    one(grader, give, 0)
    (pid,) = processes()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_running(pid))
    time.sleep(0.3)  # pebble looks ten times a second
    results = asyncio.run(gather(grader, 5))
    assert [result.score for result in results] == [1.0] * 5


async def gather(grader, count):
    return await asyncio.gather(*(grader.grade(grade_math_score, "\\boxed{4}", "4") for _ in range(count)))


def test_processes_that_a_sample_has_started_end_with_it(grader, tmp_path):
    result = one(grader, start_a_process_and_hang, str(tmp_path / "pid"))
    assert result.status == "timeout"
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: not is_running(pid), 5.0)


def test_slow_imports_are_nobody_s_time(tmp_path, monkeypatch):
    """A module that takes longer than the limit is imported before the first sample's time starts."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1.5)\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def run():
        pool = Grader(workers=1, seconds_per_sample=1.0, imports=("slow_to_import", "no_module_of_this_name"))
        try:
            return await timed(pool.grade(give, 1))
        finally:
            pool.close()

    result, seconds = asyncio.run(run())
    assert result.score == 1.0
    assert seconds > 1.5


def test_closing_ends_every_process_and_whoever_waits():
    """Also those in the middle of a sample; a closed pool starts again for the next one."""
    before = processes()

    async def run():
        pool = Grader(workers=2, seconds_per_sample=60.0)
        await pool.grade(give, 1)
        waiting = [asyncio.ensure_future(pool.grade(hang_in_c)) for _ in range(4)]
        await asyncio.sleep(0.5)
        started = processes() - before
        pool.close()
        results = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        left = processes() - before
        again = await pool.grade(give, 1)
        pool.close()
        pool.close()  # twice is once
        return started, left, results, again

    started, left, results, again = asyncio.run(run())
    assert len(started) == 2
    assert left == set()
    assert [result.status for result in results] == ["error"] * 4
    assert again.score == 1.0
    assert processes() == before


ORPHANS = """
import asyncio, time
from l2t_verl.grading import Grader

async def main():
    pool = Grader(workers=1, seconds_per_sample=600.0)
    await pool.grade(abs, 1)
    print("started", flush=True)
    await pool.grade(time.sleep, 600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_no_process_outlives_a_killed_parent(tmp_path):
    """Ray ends a worker with a signal that it cannot see; the sample under way would run on for ever."""
    (tmp_path / "parent.py").write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "started\n"
    time.sleep(0.3)
    children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert children
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not any(map(is_running, children)), 10.0)


def test_the_pool_serves_one_event_loop_after_another(grader):
    for _ in range(3):
        assert [result.score for result in asyncio.run(gather(grader, 4))] == [1.0] * 4


def test_giving_up_on_a_sample_does_not_harm_the_next(grader):
    async def run():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(grader.grade(time.sleep, 600), 0.3)
        return await grader.grade(grade_math_score, "\\boxed{4}", "4")

    assert asyncio.run(run()).score == 1.0


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("```python\ndef f(x):\n    return 2 * x\n```", 1.0),
        (
            "<think>```python\ndef f(x): return 0\n```</think>So\n```\nx\n```\nthen\n```py\r\ndef f(x): return 2*x\r\n```",
            1.0,
        ),
        ("```python\ndef f(x):\n    return x\n```", 0.0),
        ("```python\ndef g(x):\n    return 2 * x\n```", 0.0),
        ("```python\nwhile True: pass\n```", 0.0),
    ],
)
def test_programs_are_graded_by_their_tests(response, score):
    tests = {"source": "assert f(2) == 4", "entry": "", "preamble": None}  # as parquet gives it
    assert grade_code_score(response, tests) == score


@pytest.mark.parametrize("response", ["def f(x): return 2 * x", "```json\n{}", "<think>```\n1\n```"])
def test_a_response_without_a_block_has_no_program(response):
    with pytest.raises(Unparsable, match="no fenced block"):
        grade_code_score(response, {"source": "assert f(2) == 4"})


def test_a_program_does_not_redefine_the_helpers_that_its_tests_were_given():
    """HumanEval's find_zero is tested by the prompt's own `poly`."""
    preamble = "import math\n\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))"
    check = "def check(candidate):\n    assert math.fabs(poly([2, 1], candidate([2, 1]))) < 1e-4"
    tests = {"source": check, "entry": "find_zero", "preamble": preamble}
    honest = "```python\ndef find_zero(xs):\n    return -xs[0] / xs[1] + 0 * poly(xs, 1)\n```"
    assert grade_code_score(honest, tests) == 1.0
    assert grade_code_score("```python\ndef poly(*_): return 0\ndef find_zero(xs): return 7\n```", tests) == 0.0
