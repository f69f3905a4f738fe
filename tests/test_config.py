"""The configuration tree: its defaults, and every problem of a configuration in one message with its path."""

import math
from collections.abc import Mapping

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from l2t_verl.config import ConfigError, L2TConfig, load_config
from l2t_verl.guide.__main__ import describe_fields, parts
from l2t_verl.plugin.settings import read_config


def problems(raw: object) -> dict[str, str]:
    """The refusal's lines, by path below `algorithm.l2t.`; the head line must count them."""
    with pytest.raises(ConfigError) as error:
        load_config(raw)
    head, *lines = str(error.value).split("\n")
    assert head == f"the L2T configuration has {len(lines)} problem{'s' * (len(lines) > 1)}:"
    assert all(line.startswith("  algorithm.l2t.") for line in lines), lines
    return dict(line.removeprefix("  algorithm.l2t.").split(": ", 1) for line in lines)


def nested(path: str, value: object) -> dict:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def leaves(tree: Mapping, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in tree.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def test_defaults_are_the_vetted_setting():
    for raw in (None, {}, {"episodes": {}}):
        config = load_config(raw)
        assert (config.alpha, config.beta) == (0.8, 1.2)
        assert (config.episodes.method, config.episodes.fallback, config.episodes.max_episodes) == (
            "episode_tags", "paragraphs", 30
        )  # fmt: skip
        assert (config.gain.kind, config.compression.estimator, config.credit.method) == (
            "smoothed_logprob",
            "log_ratio",
            "guided",
        )
        assert config.credit.length_cost is None and config.credit.first_length_cost == 4.0
        assert config.credit.token_budget is config.credit.gamma is config.credit.ratio_clip is None
        assert not any(value for _, value in config.diagnostics)


def test_the_default_texts_force_an_answer_as_r1_would_write_it():
    gain = load_config(None).gain
    assert gain.think_close + gain.forcing_suffix == "\n</think>\n\nThe final answer is \\boxed{"
    assert gain.closing == "}"


def test_every_default_passes_its_own_check():
    """A default out of its own bounds would only show when somebody writes it down."""
    defaults = L2TConfig().model_dump()
    assert load_config(defaults) == L2TConfig()


def test_a_checked_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_config(None).credit.method = "paper"


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("alfa", "alpha, beta, beta_unit, episodes"),
        ("gain.knd", "kind, backend, fused, forcing_suffix"),
        ("credit.std_flor", "method, std_floor"),
        ("diagnostics.compare_grpo.deep", None),  # a section where a value belongs
        ("", "alpha"),
        ("1", "alpha"),
    ],
)
def test_unknown_keys_are_named_with_the_known_ones(path, known):
    found = problems(nested(path, 1))
    if known is None:
        assert found == {"diagnostics.compare_grpo": "Input should be a valid boolean (got {'deep': 1})"}
    else:
        assert list(found) == [path]
        assert found[path].startswith("unknown key; known here: " + known)


def test_keys_that_are_no_strings():
    assert list(problems({1: 2, None: 3})) == ["1", "None"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("alpha", "0.8", "should be a valid number (got '0.8')"),
        ("alpha", True, "should be a valid number (got True)"),
        ("alpha", None, "should be a valid number (got None)"),
        ("alpha", [0.8], "should be a valid number"),
        ("credit.gamma", False, "should be a valid number (got False)"),
        ("episodes.max_episodes", 30.0, "should be a valid integer (got 30.0)"),
        ("episodes.max_episodes", "30", "should be a valid integer (got '30')"),
        ("episodes.max_episodes", True, "should be a valid integer (got True)"),
        ("episodes.method", "sentences", "unknown segmenter 'sentences'. Known: episode_tags, think_blocks, paragraphs"),
        ("episodes.method", None, "should be a valid string (got None)"),
        ("episodes.fallback", "surprise", "(got 'surprise')"),
        ("episodes.markers", "Wait", "should be a list (got 'Wait')"),
        ("episodes.markers", ["Wait", 3], "should be a valid string (got 3)"),
        ("episodes.markers", ["Wait", " "], "must hold more than white space (got ' ')"),
        ("episodes.answer_markers", [""], "must hold more than white space (got '')"),
        ("gain.forcing_suffix", 3, "should be a valid string (got 3)"),
        ("gain.closing", "", "at least 1 character"),
        ("gain.think_open", " ", "must hold more than white space"),
        ("gain.think_close", "\n", "must hold more than white space"),
        ("credit.surprise_weights", 1, "should be a valid boolean (got 1)"),
        ("credit.surprise_weights", "true", "should be a valid boolean (got 'true')"),
        ("gain", None, "should be a valid dictionary"),
        ("gain", "geometric", "should be a valid dictionary"),
        ("compression", ["log_ratio"], "should be a valid dictionary"),
    ],
)
def test_wrong_types_are_refused(path, value, message):
    found = problems(nested(path, value))
    assert len(found) == 1
    ((where, text),) = found.items()
    assert where.split("[")[0] == path
    assert message in text


def test_a_wrong_element_of_a_list_is_named_by_its_position_and_hides_nothing():
    found = problems({"episodes": {"markers": ["Wait", 3, None], "max_episodes": 0, "min_episode_tokens": -1}})
    paths = ["episodes.markers[1]", "episodes.markers[2]", "episodes.max_episodes", "episodes.min_episode_tokens"]
    assert sorted(found) == paths


@pytest.mark.parametrize(
    ("path", "allowed", "refused"),
    [
        ("alpha", [0, 100], [-1e-9, 100.1]),
        ("beta", [0, 100], [-0.1, 101]),
        ("episodes.max_episodes", [1, 1024], [0, 1025]),
        ("episodes.min_episode_tokens", [1, 65536], [0, 65537]),
        ("episodes.tokens_per_episode", [1, 65536], [0, 65537]),
        ("episodes.surprise_threshold", [1e-6, 100], [0, 100.5]),
        ("gain.max_tokens_per_micro_batch", [64], [63]),
        ("credit.std_floor", [1e-9], [0, -1]),
        ("credit.length_cost", [0, 5], [-1]),
        ("credit.length_penalty", [0, 0.99], [-0.1, 1]),
        ("credit.length_share", [1e-3, 1], [0, 1.1]),
        ("credit.gamma", [0, 1], [-0.1, 1.1]),
        ("credit.critic_decay", [0, 1], [-0.1, 1.1]),
        ("credit.critic_ridge", [1e-9], [0]),
        ("credit.critic_steps", [1, 100], [0]),
        ("credit.ratio_clip", [1e-3], [0]),
        ("credit.token_budget", [1e-3, 4096], [0]),
        ("credit.length_cost_rate", [1e-3, 10], [0, 10.1]),
        ("outcome.seconds_per_sample", [0.1, 600], [0, 601]),
        ("outcome.workers", [1, 64], [0, 65]),
    ],
)
def test_bounds(path, allowed, refused):
    owners = {"gamma": "episode", "ratio_clip": "paper", "length_penalty": "length_penalty", "length_share": "overlong"}
    owners |= dict.fromkeys(("critic_decay", "critic_ridge", "critic_steps"), "critic")
    owner = {f"credit.{name}": {"method": method} for name, method in owners.items()}.get(path)
    for value in [*allowed, *refused]:
        raw = nested(path, value)
        if owner:
            raw["credit"] |= owner
        if value in allowed:
            assert leaves(load_config(raw).model_dump())[path] == value
        else:
            assert f"(got {value!r})" in problems(raw)[path]


REALS = [path for path, value in leaves(L2TConfig().model_dump()).items() if isinstance(value, float)]
REALS += ["credit.length_cost", "credit.length_share", "credit.gamma", "credit.ratio_clip", "credit.token_budget"]


@pytest.mark.parametrize("path", REALS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_real_field_takes_what_is_not_finite(path, value):
    assert list(problems(nested(path, value))) == [path]


def test_whole_numbers_are_real_numbers_too():
    """Hydra reads `alpha=1` as an integer."""
    config = load_config({"alpha": 1, "outcome": {"seconds_per_sample": 3}, "credit": {"token_budget": 500}})
    assert (config.alpha, config.outcome.seconds_per_sample, config.credit.token_budget) == (1.0, 3.0, 500.0)
    assert isinstance(config.alpha, float)


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        (
            {"credit": {"method": "shaped", "gamma": 1.0}},
            "credit.gamma",
            "only credit.method=episode uses it, but credit.method=shaped",
        ),
        ({"credit": {"method": "paper", "surprise_weights": True}}, "credit.surprise_weights", "only credit.method=episode"),
        ({"credit": {"ratio_clip": 2.0}}, "credit.ratio_clip", "only credit.method=paper"),
        ({"credit": {"method": "paper", "length_cost": 0.1}}, "credit.length_cost", "only credit.method=episode or shaped"),
        (
            {"credit": {"method": "shaped", "critic_decay": 1.0}},
            "credit.critic_decay",
            "only credit.method=critic or guided uses it",
        ),
        (
            {"credit": {"method": "critic"}, "gain": {"kind": "mean_logprob"}},
            "gain.kind",
            "credit.method=critic takes the logit of J",
        ),
        ({"credit": {"length_penalty": 0.3}}, "credit.length_penalty", "only credit.method=length_penalty"),
        ({"credit": {"length_share": 0.8}}, "credit.length_share", "only credit.method=overlong or truncation or laser_d"),
        (
            {"credit": {"method": "paper", "length_cost_for": "all"}},
            "credit.length_cost_for",
            "only credit.method=episode or shaped",
        ),
        (
            {"credit": {"method": "paper", "token_budget": 100}},
            "credit.token_budget",
            "only credit.method=episode or shaped",
        ),
        ({"episodes": {"markers": ["Wait"]}}, "episodes.markers", "only episodes.method=discourse_markers"),
        ({"episodes": {"method": "discourse_markers", "markers": []}}, "episodes.markers", "at least one marker"),
        ({"episodes": {"method": "think_blocks", "fallback": "think_blocks"}}, "episodes.fallback", "the same as"),
        ({"gain": {"samples": 8}}, "gain.samples", "only gain.kind=monte_carlo uses it"),
        ({"gain": {"kind": "monte_carlo"}, "episodes": {"method": "surprise"}}, "gain.kind", "cuts episodes after it"),
        ({"gain": {"fused": True, "backend": "expanded"}}, "gain.fused", "sequences of its own; leave it at null"),
        ({"gain": {"fused": True, "kind": "monte_carlo"}}, "gain.fused", "samples answers instead"),
        ({"gain": {"fused": True}, "episodes": {"method": "surprise"}}, "gain.fused", "needs the old log-probs before"),
        (
            {"compression": {"rank_fraction": 0.5}},
            "compression.rank_fraction",
            "only compression.estimator=directional or exact uses it",
        ),
        (
            {"compression": {"estimator": "exact", "shift": 0.1}},
            "compression.shift",
            "only compression.estimator=directional uses it",
        ),
        (
            {"compression": {"estimator": "exact", "parameters": "("}},
            "compression.parameters",
            "must be a regular expression",
        ),
    ],
)
def test_contradictions(raw, path, message):
    found = problems(raw)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(
    "raw",
    [
        {"credit": {"method": "episode", "gamma": 1.0, "surprise_weights": True}},
        {"credit": {"method": "paper", "ratio_clip": 2.0}},
        {"credit": {"method": "shaped", "length_cost": 0.1, "token_budget": 100}},
        {"episodes": {"fallback": "discourse_markers", "markers": ["Wait"]}},
        {"episodes": {"method": "paragraphs", "fallback": "paragraphs"}},
        {"episodes": {"fallback": None, "answer_markers": []}},
    ],
)
def test_what_belongs_together_is_accepted(raw):
    dumped = leaves(load_config(raw).model_dump())
    for path, value in leaves(raw).items():
        assert dumped[path] == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "raw",
    [
        {"credit": {"method": "episod", "gamma": 0.5}},
        {"episodes": {"method": "discourse", "markers": ["Wait"]}},
        {"episodes": {"fallback": "discourse", "markers": ["Wait"]}},
    ],
)
def test_a_misspelt_method_is_one_problem(raw):
    """Whether the other setting fits cannot be said before the method is known."""
    (path,) = problems(raw)
    assert path.endswith((".method", ".fallback"))


def test_all_problems_stand_in_one_message():
    """Several sections and levels, types, bounds, unknown keys, a broken section and contradictions at once."""
    found = problems(
        {
            "alpha": "0.8",
            "beta": -1,
            "episods": {"method": "paragraphs"},
            "episodes": {"max_episodes": 0, "markers": ["Wait"], "mehtod": "x"},
            "gain": {"kind": "monte_carlo", "backend": "magic", "closing": "", "samples": 0},
            "compression": 7,
            "credit": {"method": "shaped", "gamma": math.nan, "length_cost": -1, "surprise_weights": True, "std_floor": 0},
            "outcome": {"workers": 0, "grader": "human"},
        }
    )
    assert set(found) == {
        "alpha", "beta", "episods", "episodes.max_episodes", "episodes.markers", "episodes.mehtod", "gain.samples",
        "gain.backend", "gain.closing", "compression", "credit.gamma", "credit.length_cost", "credit.surprise_weights",
        "credit.std_floor", "outcome.workers", "outcome.grader",
    }  # fmt: skip


def test_the_given_mapping_is_left_as_it_was():
    raw = {"alpha": "x", "episodes": {"markers": ["Wait", 3]}}
    problems(raw)
    assert raw == {"alpha": "x", "episodes": {"markers": ["Wait", 3]}}


@pytest.mark.parametrize("raw", [[1], [], "", "alpha=1", 5, 0, True])
def test_what_is_no_mapping_is_refused(raw):
    with pytest.raises(ConfigError, match=r"algorithm\.l2t must be a mapping of settings, got"):
        load_config(raw)


def test_verl_s_configuration_is_read_with_lists_and_interpolation():
    config = OmegaConf.create(
        {
            "data": {"max_response_length": 4096},
            "algorithm": {
                "gamma": 1,
                "l2t": {
                    "alpha": "${algorithm.gamma}",
                    "episodes": {"method": "discourse_markers", "markers": ["Wait", "So"]},
                    "credit": {"token_budget": "${data.max_response_length}"},
                },
            },
        }
    )
    found = read_config(config)
    assert (found.alpha, found.credit.token_budget) == (1.0, 4096.0)
    assert found.episodes.markers == ("Wait", "So")


def test_verl_s_configuration_without_the_section_gives_the_defaults():
    for algorithm in ({}, {"l2t": None}, {"l2t": {}}):
        assert read_config(OmegaConf.create({"algorithm": algorithm})) == L2TConfig()


@pytest.mark.parametrize("node", [5, "alpha=1", [1, 2], {"alpha": "???"}, {"episodes": {"max_episodes": True}}])
def test_verl_s_configuration_is_refused_by_the_same_check(node):
    with pytest.raises(ConfigError, match=r"algorithm\.l2t"):
        read_config(OmegaConf.create({"algorithm": {"l2t": node}}))


def test_fields_are_listed_once_in_order_with_their_defaults():
    rows = describe_fields()
    paths = [path for path, _, _ in rows]
    defaults = leaves(L2TConfig().model_dump() | {"options": "by the parts' names"})
    assert paths == list(defaults)
    shown = {path: default for path, default, _ in rows}
    assert (shown["alpha"], shown["credit.gamma"], shown["episodes.max_episodes"]) == ("0.8", "null", "30")
    assert shown["gain.think_close"] == "\\n</think>"  # escaped, so that it stays in one line of a table
    assert all("\n" not in default for default in shown.values())


def test_registered_parts_are_listed():
    outcomes = "length_penalty, adaptive_length_penalty, overlong, truncation, laser_d"
    assert f"credit: paper, episode, shaped, critic, guided, {outcomes}" in parts()


def test_every_field_has_a_sentence_and_every_section_too():
    for path, _, sentence in describe_fields():
        assert len(sentence.split()) > 3, path
        assert sentence.endswith((".", ".)")), path
        assert sentence[0].isupper() or sentence[0] == "`", path
    sections = [field.annotation for field in L2TConfig.model_fields.values() if isinstance(field.annotation, type)]
    sections = [section for section in sections if issubclass(section, BaseModel)]
    assert len(sections) == 7
    assert all(section.__doc__ and section.__doc__.endswith(".") for section in sections)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("beta", "units of J per nat"),
        ("episodes.min_episode_tokens", "in tokens"),
        ("episodes.tokens_per_episode", "in tokens"),
        ("episodes.surprise_threshold", "in nats"),
        ("gain.max_tokens_per_micro_batch", "in tokens"),
        ("compression.estimator", "in nats"),
        ("credit.std_floor", "in units of J"),
        ("credit.length_cost", "in units of the advantage"),
        ("credit.token_budget", "in tokens"),
        ("credit.length_cost_rate", "in units of λ"),
        ("outcome.seconds_per_sample", "in seconds"),
    ],
)
def test_what_has_a_unit_names_it(path, unit):
    sentences = {name: sentence for name, _, sentence in describe_fields()}
    assert unit in sentences[path]
