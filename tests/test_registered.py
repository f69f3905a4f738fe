"""One table of cases for every registered part: ours, the guide's, and yours, by PLUGINS=my_module in the environment."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tiny import byte_tokenizer

from l2t_verl import compression, credit, episodes, gain, registry
from l2t_verl.config import ConfigError, load_config
from l2t_verl.grading import GradeResult

GUIDE = Path(__file__).parents[1] / "l2t_verl" / "guide" / "extending.md"


def blocks() -> list[str]:
    """The Python of the guide's page."""
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def extended(tmp_path_factory):
    """The guide's modules, and those that the environment names, registered as a configuration does it; gone afterwards."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "my_credit.py").write_text(blocks()[0])
    (folder / "my_parts.py").write_text(blocks()[1])
    sys.path.insert(0, str(folder))
    kept = [(of, dict(of._parts), dict(of._options)) for of in registry.REGISTRIES]
    yield load_config({"plugins": list(PLUGINS)})
    sys.path.remove(str(folder))
    for of, parts, options in kept:
        of._parts, of._options = parts, options


PLUGINS = ("my_credit", "my_parts", *filter(None, os.environ.get("PLUGINS", "").split(",")))


def names(of: registry.Registry):
    """A test for each part, found when it runs: modules register theirs in the fixture before."""
    return list(of)


# ---- credits

LONGEST = 1000


def inputs(seed: int = 0, rows: int = 12, tokens: int = 9, method: str = "", **changed) -> credit.CreditInputs:
    """Groups of four; row 0 has no sampled token, row 1 no episode, row 2 padding in the middle, as tools leave it."""
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.randint(3, tokens + 1, (rows, 1), generator=generator)).long()
    mask[0], mask[2, 1] = 0, 0
    ids = (torch.arange(tokens) // 3).repeat(rows, 1)
    ids[:, -2:] = -1
    ids[1] = -1
    given = {
        "outcome": (torch.rand(rows, generator=generator) < 0.5).float(),
        "process": torch.randn(rows, 3, generator=generator, dtype=torch.float64),
        "episode_ids": ids,
        "response_mask": mask,
        "old_log_probs": -torch.rand(rows, tokens, generator=generator),
        "index": np.array([f"group {row // 4}" for row in range(rows)], dtype=object),
        "scores": torch.rand(rows, 4, generator=generator, dtype=torch.float64),
        "max_length": LONGEST,
        "length_cost": 0.3,
        "settings": load_config({}).credit,
        "options": load_config({"plugins": list(PLUGINS)}).options.get(method),
    }
    return credit.CreditInputs(**given | changed)


def every(of: registry.Registry, run) -> None:
    """Run a case on each part; a failure says whose."""
    for name in names(of):
        try:
            run(name)
        except Exception as error:
            error.add_note(f"the {of.what} {name!r}")
            raise


def test_credits_give_finite_advantages_inside_the_mask_only():
    def run(name):
        given = inputs(method=name)
        found = credit.token_advantages(name, given)
        assert found.shape == given.response_mask.shape and found.is_floating_point()
        assert torch.isfinite(found).all()
        assert (found[given.response_mask == 0] == 0).all()

    every(registry.CREDITS, run)


def test_credits_survive_extreme_rewards():
    def run(name):
        for scale in (0.0, 1e-300, 1e30):
            given = inputs(method=name)
            found = credit.token_advantages(name, inputs(method=name, process=given.process * scale))
            assert torch.isfinite(found).all(), scale

    every(registry.CREDITS, run)


def test_credits_do_not_depend_on_the_order_of_rows():
    def run(name):
        given, order = inputs(method=name), torch.randperm(12, generator=torch.Generator().manual_seed(1))
        moved = {key: getattr(given, key)[order] for key in
                 ("outcome", "process", "episode_ids", "response_mask", "old_log_probs", "scores")}  # fmt: skip
        found = credit.token_advantages(name, inputs(method=name, **moved, index=given.index[order.numpy()]))
        torch.testing.assert_close(found, credit.token_advantages(name, given)[order], rtol=1e-5, atol=1e-6)

    every(registry.CREDITS, run)


def test_groups_do_not_see_each_other():
    def run(name):
        given = inputs(method=name)
        other = given.process.clone()
        other[:4] += 1.0
        first, second = (credit.token_advantages(name, inputs(method=name, process=of)) for of in (given.process, other))
        torch.testing.assert_close(first[4:], second[4:])

    every(registry.CREDITS, run)


def test_padding_on_the_right_changes_nothing():
    def run(name):
        given = inputs(method=name)
        pad = lambda values, with_: torch.nn.functional.pad(values, (0, 3), value=with_)  # noqa: E731
        wider = inputs(method=name, episode_ids=pad(given.episode_ids, -1), response_mask=pad(given.response_mask, 0),
                       old_log_probs=pad(given.old_log_probs, -7.0))  # fmt: skip
        torch.testing.assert_close(
            credit.token_advantages(name, wider)[:, :-3], credit.token_advantages(name, given), rtol=1e-5, atol=1e-6
        )

    every(registry.CREDITS, run)


def test_a_group_of_one_is_finite():
    def run(name):
        alone = np.array([str(row) for row in range(12)], dtype=object)
        assert torch.isfinite(credit.token_advantages(name, inputs(method=name, index=alone))).all()

    every(registry.CREDITS, run)


def test_a_credit_of_another_shape_is_refused(monkeypatch):
    monkeypatch.setitem(registry.CREDITS._parts, "flat", lambda given: given.outcome)
    with pytest.raises(ValueError, match=r"credit 'flat' must give advantages of the mask's shape \[12, 9\], got \[12\]"):
        credit.token_advantages("flat", inputs())


# ---- kinds of J


def test_kinds_rise_with_every_log_prob_and_ignore_what_lies_beyond():
    log_probs = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 9.0, 9.0]])
    lengths = torch.tensor([3, 1])

    def run(name):
        found = gain.reduce_log_probs(log_probs, lengths, kind=name)
        assert found.shape == (2,) and torch.isfinite(found).all()
        for token in range(3):
            better = log_probs.clone()
            better[0, token] += 0.25
            assert gain.reduce_log_probs(better, lengths, kind=name)[0] > found[0]
        beyond = log_probs.clone()
        beyond[1, 1:] = -50.0
        assert gain.reduce_log_probs(beyond, lengths, kind=name)[1] == found[1]

    every(registry.KINDS, run)


# ---- penalties


def test_penalties_are_finite_and_not_negative_and_zero_without_log_ratios():
    generator = torch.Generator().manual_seed(2)
    deltas = torch.randn(4, 6, generator=generator)
    ids = torch.tensor([[0, 0, 1, 1, 2, -1]] * 3 + [[-1] * 6])
    mask = torch.ones(4, 6)

    def run(name):
        found = compression.compression_penalty(deltas, ids, mask, num_episodes=3, estimator=name)
        assert found.shape == (4, 3) and torch.isfinite(found).all() and (found >= 0).all()
        assert (found[3] == 0).all()
        none = compression.compression_penalty(torch.zeros(4, 6), ids, mask, num_episodes=3, estimator=name)
        assert (none == 0).all()

    every(registry.PENALTIES, run)


# ---- segmenters

TEXTS = [
    "",
    "   \n\n",
    "One step. Another one! And a third?\n\nA paragraph. So 7.",
    "<episode_1>Add 3 and 4.</episode_1><episode_2>That is 7.</episode_2>\n</think>\n\n7",
    "<think>Wait. Let me see.\n\nAlternatively, 8.</think>The answer is \\boxed{8}.",
    "e\u0301 \U0001f600. \ud7ff \x00. </episode_9><episode_1>",
]


def test_segmenters_give_rising_ends_within_the_response():
    tokenizer = byte_tokenizer()

    def run(name):
        options = load_config({"plugins": list(PLUGINS)}).options
        for text in TEXTS:
            ids = tokenizer.encode(text)
            arguments = {"method": name, "log_probs": [-1.0] * len(ids), "max_episodes": 4, "options": options}
            ends = episodes.segment(ids, tokenizer, **arguments)
            assert ends == sorted(set(ends)) and len(ends) <= 4
            assert not ends or (ends[0] > 0 and ends[-1] <= len(ids))
            assert ends == episodes.segment(ids, tokenizer, **arguments)

    every(registry.SEGMENTERS, run)


def test_the_guide_s_segmenter_cuts_after_sentences():
    tokenizer = byte_tokenizer()
    text = "One step. Another one! So 7."
    assert episodes.segment(tokenizer.encode(text), tokenizer, method="sentences") == [10, 23, 28]


def test_a_segmenter_of_a_module_has_its_own_options_and_the_configured_fallback():
    """Also where it is the fallback, or finds nothing to cut by."""
    tokenizer, text = byte_tokenizer(), "ab. cd.\n\nef."
    ids, seen = tokenizer.encode(text), []

    class Options(BaseModel):
        depth: int = 3

    @registry.register_segmenter("noting", options=Options)
    def noting(uncut):
        seen.append(uncut.options.depth)

    for episodes_of in ({"method": "noting", "fallback": "fixed_tokens", "tokens_per_episode": 5}, {"fallback": "noting"}):
        config = load_config({"episodes": episodes_of, "options": {"noting": {"depth": 7}}})
        ends = episodes.segment_as_configured(ids, tokenizer, config)
        assert ends == ([5, 10, 12] if "method" in episodes_of else [])
    assert seen == [7, 7]


# ---- graders


def test_graders_grade_anything():
    def run(name):
        for answer in ("", "7", "\x00 \U0001f600", "x" * 10_000):
            grade = GradeResult.of(registry.GRADERS[name](answer, ["7"], {}, None))
            assert np.isfinite([grade.score, grade.accuracy]).all()

    every(registry.GRADERS, run)


# ---- names and settings


def test_the_declared_names_are_the_registered_ones():
    for of in registry.REGISTRIES:
        assert set(of._declared) <= set(of._parts), of.what


def test_an_unknown_name_is_refused_with_the_likeliest():
    with pytest.raises(ConfigError, match=r"credit\.method: unknown credit 'shapd'\. Did you mean shaped\? Known: "):
        load_config({"credit": {"method": "shapd"}})
    with pytest.raises(ConfigError, match=r"gain\.kind: unknown kind of answer score 'x'\. Known: .*monte_carlo"):
        load_config({"gain": {"kind": "x"}})


def test_a_module_that_cannot_be_imported_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"plugins: no_such_module cannot be imported .*PYTHONPATH, on every node"):
        load_config({"plugins": ["no_such_module"]})


def test_a_part_s_settings_are_checked_like_ours():
    with_options = {"plugins": list(PLUGINS), "credit": {"method": "leave_one_out"}}
    assert load_config(with_options).options["leave_one_out"].strength == 1.0
    half = load_config({**with_options, "options": {"leave_one_out": {"strength": 0.5}}})
    assert half.options["leave_one_out"].strength == 0.5
    with pytest.raises(ConfigError) as refused:
        load_config({**with_options, "options": {"leave_one_out": {"strength": "much", "colour": 1}, "nobody": {}}})
    for expected in ("options.leave_one_out.strength: ", "options.leave_one_out.colour: ", "options.nobody: no part"):
        assert expected in str(refused.value)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"the credit 'shaped' is registered already, by l2t_verl\.credit\.registered"):
        registry.register_credit("shaped")(lambda given: None)


def test_options_need_defaults():
    class Bare(BaseModel):
        depth: int

    with pytest.raises(ValueError, match="its options need defaults, and depth has none"):
        registry.register_credit("bare", options=Bare)


def test_two_parts_with_options_and_one_name_are_refused(monkeypatch):
    """They would share `algorithm.l2t.options.<name>`."""

    class Depth(BaseModel):
        depth: int = 1

    for of in (registry.KINDS, registry.CREDITS):
        monkeypatch.setattr(of, "_parts", dict(of._parts))
        monkeypatch.setattr(of, "_options", dict(of._options))
        of.register("deep", options=Depth)(lambda given: None)
    with pytest.raises(ConfigError, match=r"options: kind of answer score and credit are both named 'deep' .*another name"):
        load_config({})
