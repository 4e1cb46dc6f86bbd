"""Known poems, and what is wrong with spoiled ones."""

import pytest

from flagai.errors import InputError
from flagai.poetry import faults
from flagai.poetry.verse import poem_data

STORKS = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
SPRING = "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。"
HIGH = (
    "风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。"
    "万里悲秋常作客，百年多病独登台。艰难苦恨繁霜鬓，潦倒新停浊酒杯。"
)


@pytest.mark.parametrize(
    ("poem", "form"),
    [(STORKS, "五言绝句"), (SPRING, "七言绝句"), (HIGH, "七言律诗"), (STORKS.replace("，", ","), "五言绝句")],
)
def test_famous_poems_keep_the_rules(poem: str, form: str) -> None:
    assert faults(poem, form) == []


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        ("。欲", "，欲", ["form"]),
        ("更上", "更", ["form"]),
        ("一层", "a层", ["form"]),
        ("黄河", "明月", ["tones"]),
        ("楼", "山", ["rhyme"]),
        ("楼", "流", ["rhyme"]),
        ("尽，黄", "白，黄", []),
        ("目", "白", []),
    ],
)
def test_what_breaks_a_rule(old: str, new: str, broken: list[str]) -> None:
    assert faults(STORKS.replace(old, new), "五言绝句") == broken


def test_repetition() -> None:
    assert faults(SPRING.replace("白帝", "一帝").replace("两岸", "一岸"), "七言绝句", strict=False) == ["repetition"]
    assert faults("春" * 5 + STORKS[5:], "五言绝句", strict=False) == ["repetition"]
    assert faults(HIGH.replace("滚滚", "萧萧"), "七言律诗", strict=False) == ["repetition"]


def test_an_unknown_form() -> None:
    with pytest.raises(InputError, match=r"'词' is not a form of a poem. Known: 五言绝句"):
        faults(STORKS, "词")
    with pytest.raises(InputError, match=r"The poem is 5; expected a text"):
        faults(5, "五言绝句")  # type: ignore[arg-type]


def test_the_rhymes_are_those_of_the_book() -> None:
    rhymes_of = poem_data().rhymes_of
    for name, characters in {
        "东": "风中空",
        "冬": "峰龙钟",
        "元": "村门魂",
        "庚": "声名生",
        "佳": "怀阶",
        "咸": "衫帆",
    }.items():
        assert [rhymes_of(character) for character in characters] == [frozenset({name})] * len(characters)
    assert len(poem_data().rhymes) == 30
    assert not any(rhymes_of(character) for character in "月白不入")
