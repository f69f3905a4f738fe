"""The inspector's page in a real browser: content, filters, keys, no request, and hostile text that is shown, never run."""

import json
import random
import time

import pytest

from l2t_verl.inspector.page import page
from l2t_verl.inspector.rollouts import Episode, Rollout
from l2t_verl.inspector.run import Inspected
from l2t_verl.inspector.visible import visible

SEED = 20261127
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "{{ 7 * 191 }} {% raw %} <!-- ]]> </textarea></style></svg><svg onload=window.hacked=3>",
    "safe \u202edesrever\u202c \u2067rtl\u2069 zero\u200bwidth \x00\x07\x1b[31m\x7f\x85 \ud800 \U000e0041 end",
    "'\" onmouseover=window.hacked=4 x='&lt;b&gt;",
)


def rollout(number: int, rewards, *, outcome=1.0, start=0.1, text="Step {}.\n\n", problem=None, tail="Done.") -> Rollout:
    """Episodes of 10 tokens with these rewards, which are their gains."""
    episodes, score = [], start
    for k, reward in enumerate(rewards):
        score += reward
        episodes.append(Episode(text.format(k), 10 * k, 10 * k + 10, score, reward, None, reward, k == 1))
    problem = problem or f"Problem number {number}"
    tokens = 10 * len(episodes) + 5
    return Rollout(
        f"k{number}", f"a.jsonl:{number}", "", problem, ("5",), outcome, "ok", tokens, start, tuple(episodes), tail
    )


ROLLOUTS = [
    rollout(1, [0.2, -0.1, 0.3]),
    rollout(2, [0.1] * 7, outcome=0.0, text="A longer thought, {}.\n\n"),
    rollout(3, [-0.4, 0.5], outcome=0.0, tail="The needle is here."),
    rollout(4, [0.8, 0.0, 0.0, 0.0], outcome=None),
]


@pytest.fixture
def opened(visit, tmp_path):
    """Writes a page of rollouts and opens it from disk."""

    def open_page(rollouts, others=None, **options):
        file = tmp_path / "inspect.html"
        beside = None if others is None else Inspected(others)
        names = ["a", "b"][: 1 + (others is not None)]
        file.write_text(page(Inspected(rollouts), beside, names=names, about=[]), encoding="utf-8")
        return visit(file, **options)

    return open_page


def shown(tab) -> list[int]:
    """Numbers of the rollouts that are to be seen, in their order."""
    articles = tab.locator("article:not([hidden])")
    numbers = [int(articles.nth(i).get_attribute("data-number")) for i in range(articles.count())]
    listed = tab.locator("nav li:not([hidden])").evaluate_all("items => items.map((item) => Number(item.dataset.number))")
    assert listed == numbers
    return numbers


def test_every_rollout_is_there_with_its_episodes_and_their_signs(opened):
    tab = opened(ROLLOUTS)
    assert shown(tab) == [1, 2, 3, 4]
    first = tab.locator("#rollout-1")
    assert first.locator(".episode b").all_inner_texts() == ["▲ +0.200", "▼ −0.100", "▲ +0.300"]
    assert first.locator("svg.sparkline rect").count() == 3
    assert first.locator("svg").get_attribute("aria-label") == "J from 0.100 to 0.500"
    assert "✓ correct" in first.inner_text()
    assert "? ungraded" in tab.locator("#rollout-4").text_content()
    colours = first.locator(".episode > .text").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == 3


@pytest.mark.parametrize(
    ("view", "numbers"), [("all", [1, 2, 3, 4]), ("correct", [1]), ("wrong", [2, 3]), ("ungraded", [4])]
)
def test_filters(opened, view, numbers):
    tab = opened(ROLLOUTS)
    tab.select_option("#show", view)
    assert shown(tab) == numbers
    assert tab.locator("#count").inner_text() == f"{len(numbers)} of 4 rollouts"


@pytest.mark.parametrize(
    ("view", "rewards"),
    [
        ("longest", lambda number: [0.1] * number),
        ("negative", lambda number: [0.2, -0.01 * number]),
        ("redundant", lambda number: [0.2, *[0.0] * number]),
    ],
)
def test_the_ten_most_extreme_are_kept_and_stand_in_their_order(opened, view, rewards):
    tab = opened([rollout(number, rewards(number)) for number in range(1, 15)])
    tab.select_option("#show", view)
    assert shown(tab) == list(range(14, 4, -1))
    tab.select_option("#sort", "number")
    assert shown(tab) == list(range(5, 15))


@pytest.mark.parametrize(
    ("order", "numbers"),
    [("number", [1, 2, 3, 4]), ("tokens", [2, 4, 1, 3]), ("lowest", [3, 1, 4, 2]), ("rise", [4, 2, 1, 3])],
)
def test_sorting(opened, order, numbers):
    tab = opened(ROLLOUTS)
    tab.select_option("#sort", order)
    assert shown(tab) == numbers


def test_the_keyboard_is_enough(opened):
    tab = opened(ROLLOUTS)
    focused = "document.activeElement.closest('article')?.dataset.number"
    for key, number in (("j", "1"), ("j", "2"), ("j", "3"), ("k", "2")):
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == number
    assert tab.locator("nav a[aria-current]").get_attribute("href") == "#rollout-2"
    for key, episode in (("n", 0), ("n", 1), ("p", 0)):
        tab.keyboard.press(key)
        numbers = tab.locator("#rollout-2 .episode").nth(episode).locator(".numbers")
        tab.wait_for_function("node => getComputedStyle(node).opacity === '1'", arg=numbers.element_handle())
    assert "J 0.1000 → 0.2000" in numbers.inner_text()
    tab.keyboard.press("/")
    tab.keyboard.type("needle")
    assert shown(tab) == [3]
    tab.keyboard.press("Escape")
    assert shown(tab) == [1, 2, 3, 4]
    tab.keyboard.press("?")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#help").is_visible()


def test_a_search_without_a_match_says_so(opened):
    tab = opened(ROLLOUTS)
    tab.fill("#search", "nowhere to be found")
    assert tab.locator("#nothing").is_visible()
    assert tab.locator("#count").inner_text() == "0 of 4 rollouts"
    tab.keyboard.press("Tab")
    tab.keyboard.press("j")  # nothing to go to


def test_the_numbers_come_with_the_pointer_and_a_click_on_the_line_leads_to_its_episode(opened):
    tab = opened(ROLLOUTS)
    episode = tab.locator("#rollout-1 .episode").nth(1)
    assert episode.locator(".numbers").evaluate("node => getComputedStyle(node).opacity") == "0"
    episode.locator(".text").hover()
    assert episode.locator(".numbers").evaluate("node => getComputedStyle(node).opacity") == "1"
    tab.locator("#rollout-1 rect").nth(2).click()
    assert tab.evaluate("document.activeElement.querySelector('.number').textContent.trim()") == "episode 3"


def test_light_and_dark(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(ROLLOUTS, color_scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(background) != dark.evaluate(background)
    light.click("#theme")
    assert light.evaluate(background) == dark.evaluate(background)
    assert light.locator("#theme").get_attribute("aria-pressed") == "true"


def test_print_shows_the_numbers_and_no_controls(opened):
    tab = opened(ROLLOUTS)
    tab.emulate_media(media="print")
    assert tab.locator("#rollout-1 .numbers").first.evaluate("node => getComputedStyle(node).opacity") == "1"
    assert not tab.locator(".toolbar").is_visible()
    assert not tab.locator("nav").is_visible()


def test_a_screen_reader_finds_its_way(opened):
    tab = opened(ROLLOUTS)
    tree = tab.locator("body").aria_snapshot()
    for part in (
        "banner:",
        "search",
        "navigation",
        "main:",
        'article "Rollout 1"',
        'heading "Rollout 1" [level=2]',
        "status:",
    ):
        assert part in tree, part
    assert 'list "episodes"' in tree
    assert "episode 2 ▼ −0.100" in tree
    assert tab.locator("html").get_attribute("lang") == "en"


def test_two_sides_are_matched_by_their_problem(opened):
    others = [rollout(3, [0.1], outcome=1.0), rollout(1, [0.1, 0.1]), rollout(9, [0.2], outcome=0.0)]
    tab = opened(ROLLOUTS, others)
    sides = tab.locator("#rollout-1 .sides > section")
    assert sides.count() == 2
    assert [sides.nth(i).locator(".episode").count() for i in (0, 1)] == [3, 2]
    boxes = [sides.nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert "no response to this problem" in tab.locator("#rollout-2").text_content()
    assert "Problem number 9" in tab.locator("#rollout-5").text_content()
    tab.select_option("#show", "differ")
    assert shown(tab) == [2, 3, 4, 5]


@pytest.mark.parametrize("where", ["text", "problem", "tail"])
def test_hostile_text_is_shown_and_never_run(opened, where):
    hostile = " ".join(HOSTILE)
    safe = hostile.replace("{", "{{").replace("}", "}}") if where == "text" else hostile
    tab = opened([rollout(1, [0.1, -0.1], **{where: safe}), rollout(2, [0.1])])
    tab.wait_for_timeout(100)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("article").count() == 2
    assert tab.locator("script").count() == 1
    seen = tab.locator("#rollout-1").inner_text()
    for piece in (
        HOSTILE[0],
        HOSTILE[1],
        HOSTILE[3],
        "U+202E",
        "U+2067",
        "U+200B",
        "^@",
        "^G",
        "^[",
        "^?",
        "U+D800",
        "U+E0041",
    ):
        assert piece in seen, piece
    assert "\u202e" not in tab.content()


def test_a_line_of_100_000_characters_stays_within_the_page(opened):
    tab = opened([rollout(1, [0.1], text="x" * 100_000), rollout(2, [0.1], problem="\u05d0\u05d1\u05d2 " * 50)])
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.locator("#rollout-1 .episode .text").inner_text() == "x" * 100_000
    assert tab.locator("#rollout-2 .problem").evaluate("node => getComputedStyle(node).direction") == "rtl"


def test_a_hundred_long_rollouts_are_small_and_open_at_once(opened, tmp_path):
    print(f"seed {SEED}")
    draws = random.Random(SEED)
    words = [f"word{draws.randrange(900)}" for _ in range(1000)]
    text = " ".join(draws.choices(words, k=50)) + "\n\n"  # 30 of them: some 2,000 tokens
    many = [rollout(i, [draws.gauss(0, 0.05) for _ in range(30)], text=text, outcome=i % 2) for i in range(1, 101)]
    begun = time.monotonic()
    tab = opened(many)
    taken = time.monotonic() - begun
    timing = json.loads(tab.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0])"))
    size = (tmp_path / "inspect.html").stat().st_size
    print(f"{size / 1e6:.2f} MB, written and opened in {taken:.2f} s, loaded after {timing['loadEventEnd']:.0f} ms")
    assert size < 5e6
    assert timing["loadEventEnd"] < 2000
    tab.fill("#search", "word1")
    assert tab.locator("#count").inner_text().endswith(" of 100 rollouts")


def test_visible_leaves_ordinary_text_alone():
    text = "naïve 你好 שלום\tx\n∑ 🎉"
    assert visible(text) == text
