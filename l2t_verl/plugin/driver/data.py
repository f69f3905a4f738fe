"""What is refused of the data before anything heavy is started, and what is warned of."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from l2t_verl import sandbox
from l2t_verl.config import ConfigError, L2TConfig
from l2t_verl.gain import ForcingTemplate, answer_target
from l2t_verl.grading import GradeResult, grade_code_score, grade_math_score
from l2t_verl.grading.truth import rewritten
from l2t_verl.plugin import fields

logger = logging.getLogger(__name__)

LONGEST_GRADED = 200  # characters of a ground truth that is an answer


def check_data(
    datasets: Mapping[str, Any], config: DictConfig, l2t: L2TConfig, tokenizer: Any, context_length: int | None
) -> None:
    """Refuse data that could not be scored, all in one message; warn of what could be scored in part only.

    Rows without a ground truth are refused, unless a custom reward function is there to grade them; so are images, and
    prompts or answers that the model has no positions for.

    Args:
        datasets: verl's datasets by the name of the option that they come from; one without a `dataframe` (a custom
            class) is not looked at.
        config: verl's whole configuration.
        l2t: the method's.
        tokenizer: the model's.
        context_length: the longest sequence that the model has positions for, in tokens; None if it does not say.

    Raises:
        ConfigError: each problem with the rows and the remedy.
    """
    problems: list[str] = []
    answers: list[str] = []
    examples: dict[str, tuple[str, Any]] = {}  # an answer of each data source with its tests, where answers are sampled
    custom = config.reward.custom_reward_function.path is not None
    for option, dataset in datasets.items():
        frame = getattr(dataset, "dataframe", None)
        if frame is None:
            logger.warning("%s: %s has no dataframe; its rows are not checked", option, type(dataset).__name__)
            continue
        found, missing = _ground_truths(frame)
        answers += found
        _say_what_is_rewritten(option, frame)
        if l2t.gain.kind == "monte_carlo" and {"data_source", "reward_model"} <= set(frame.column_names):
            examples |= _examples(frame)
        if not custom:
            problems += _tests_problems(option, frame, l2t)
        if missing:
            text = f"{option}: {len(missing)} of {len(frame)} rows have no ground truth (rows {_some(missing)})"
            if not custom:
                problems.append(f"{text}; fill reward_model.ground_truth or drop them")
            else:
                logger.warning("%s; they get no process reward and count in l2t/skipped/no_ground_truth", text)
        pictured = [key for key in ("image_key", "video_key", "audio_key") if _has_media(frame, config.data.get(key))]
        if pictured:
            problems.append(f"{option}: rows carry {config.data[pictured[0]]}; L2T scores text only, drop the column")
    if context_length is not None and answers:
        problems += _room_problems(config, l2t, tokenizer, context_length, answers)
    if not custom:
        problems += _grading_problems(l2t, examples)
    if problems:
        raise ConfigError("L2T cannot train on this data:\n" + "\n".join(f"  {line}" for line in problems))


def _ground_truths(frame: Any) -> tuple[list[str], list[int]]:
    """The accepted answers of all rows, and the rows that have none."""
    if "reward_model" not in frame.column_names:
        return [], list(range(len(frame)))
    accepted = [fields.accepted_answers(fields.ground_truth_of(item)) for item in frame["reward_model"]]
    return [text for texts in accepted for text in texts], [row for row, texts in enumerate(accepted) if not texts]


def _say_what_is_rewritten(option: str, frame: Any) -> None:
    """J is the probability of the truth as it is read here, and not of what the file has around it."""
    rows = frame["reward_model"] if "reward_model" in frame.column_names else []
    found = [pair for item in rows for pair in rewritten(fields.ground_truth_of(item))]
    if found:
        written, read = found[0]
        logger.warning(
            "%s: %d truths of %d rows are taken out of what stands around them, the first: %r is read as %r",
            *(option, len(found), len(rows), written[-60:], read[:60]),
        )


def _examples(frame: Any) -> dict[str, tuple[str, Any]]:
    """The first answer of each data source, with its tests."""
    found: dict[str, tuple[str, Any]] = {}
    for source, item, tests in zip(frame["data_source"], frame["reward_model"], _tests(frame), strict=True):
        if source not in found and (accepted := fields.accepted_answers(fields.ground_truth_of(item))):
            found[source] = accepted[0], tests
    return found


def _tests(frame: Any) -> list[Any]:
    """The tests of each row; None where it has none."""
    rows = frame["extra_info"] if "extra_info" in frame.column_names else [None] * len(frame)
    return [row.get("tests") if isinstance(row, Mapping) else None for row in rows]


def _tests_problems(option: str, frame: Any, l2t: L2TConfig) -> Iterator[str]:
    """Whether rows that are graded by tests have some, and whether this machine can run them."""
    if l2t.outcome.grader not in ("auto", "tests"):
        return
    tests = _tests(frame)
    without = [row for row, of in enumerate(tests) if not of]
    if l2t.outcome.grader == "tests" and without:
        yield (
            f"{option}: {len(without)} of {len(tests)} rows have no extra_info.tests (rows {_some(without)}) for "
            "algorithm.l2t.outcome.grader=tests; build the data with python -m l2t_verl.data, or take another grader"
        )
    if len(without) < len(tests):
        try:
            sandbox.require()
        except sandbox.SandboxError as error:
            yield f"{option}: rows have tests, and {error}"


def _grading_problems(l2t: L2TConfig, examples: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """Whether a right answer, forced and closed as samples are, is graded as right: else J would always be 0."""
    from l2t_verl.plugin.verl_scorers import knows, verl_score  # imports verl, which the launcher's dry run does without

    for source, (answer, tests) in examples.items():
        text = f"{l2t.gain.forcing_suffix}{answer}{l2t.gain.closing}"
        by_tests = tests and l2t.outcome.grader in ("auto", "tests")
        if len(answer) > LONGEST_GRADED and not by_tests:  # tests of a program, not an answer to be written down
            continue
        by_verl = l2t.outcome.grader == "verl" or (l2t.outcome.grader == "auto" and knows(source))
        try:
            if by_tests:
                result = grade_code_score(text, tests)
            else:
                result = verl_score(source, text, answer, None) if by_verl else grade_math_score(text, [answer])
            accuracy = GradeResult.of(result).accuracy
        except Exception as error:
            logger.warning("the forced answer %r of %s could not be graded: %s", text, source, error)
            continue
        if accuracy <= 0:
            grader = "the sandbox" if by_tests else "verl's scorer" if by_verl else "math-verify"
            yield (
                f"data source {source}: {grader} grades the right answer as wrong when it is forced ({text!r}), so "
                "gain.kind=monte_carlo would always score 0; set algorithm.l2t.gain.forcing_suffix and closing to what it "
                "reads, or algorithm.l2t.outcome.grader=math_verify"
            )


def _has_media(frame: Any, column: str | None) -> bool:
    return column in frame.column_names and any(item is not None and len(item) > 0 for item in frame[column])


def _room_problems(
    config: DictConfig, l2t: L2TConfig, tokenizer: Any, context_length: int, answers: list[str]
) -> Iterator[str]:
    """Whether prompt, response and forced answer fit the model's positions together."""
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    if prompt >= context_length:
        yield f"data.max_prompt_length={prompt} leaves no room for a response: the model has {context_length} positions"
        return
    template = ForcingTemplate.from_config(l2t.gain)
    longest = max(answers, key=len)
    target = answer_target(tokenizer, longest, suffix=template.forcing("none"), closing=template.closing)
    needed = len(target.suffix_ids) + len(target.answer_ids)
    if prompt + needed > context_length:
        yield (
            f"the longest ground truth ({longest[:40]!r}) takes {needed} tokens when it is forced, which do not fit after "
            f"data.max_prompt_length={prompt}: the model has {context_length} positions; lower it, or drop such rows"
        )
    elif prompt + response + needed > context_length:
        logger.warning(
            "a response of data.max_response_length=%d may leave no room for its answer (%d tokens): the model has %d "
            "positions. Such rows get no process reward and count in l2t/skipped/answer_too_long.",
            *(response, needed, context_length),
        )


def _some(rows: list[int], most: int = 5) -> str:
    return ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")
