"""bAbI files: hand-made ones of every shape, and errors that name file and line."""

from __future__ import annotations

import pytest

from envs.errors import UserError
from tasks.babi.reader import BLANK, read_file, read_split, read_text, tokens_of

STORY = "1 Ann went to the attic.\n2 Bob is in the barn.\n3 Where is Ann? \tattic\t1\n"


def words(text: str) -> list[str]:
    return text.split()


def test_a_story_word_by_word_with_a_blank_for_the_answer():
    [story] = read_text(STORY + "4 Where is Bob?\tBarn\t2\n", task=1)
    assert list(story.tokens) == words(
        "ann went to the attic . bob is in the barn . where is ann ? - where is bob ? -"
    )
    assert story.sentences == (0, 6, 12, 17)
    first, second = story.questions
    assert (first.places, first.answers, first.evidence, first.line) == ((16,), ("attic",), 0, 3)
    assert (second.places, second.answers, second.evidence) == ((21,), ("barn",), 6)


def test_no_true_answer_is_read():
    [story] = read_text("1 Ann sleeps.\n2 Who sleeps? \tzebra\t1\n3 Who snores? \tquagga\t1\n")
    assert not {"zebra", "quagga"} & set(story.tokens)
    assert [story.tokens[place] for q in story.questions for place in q.places] == [BLANK, BLANK]


def test_number_one_opens_a_story_and_the_last_one_is_kept(tmp_path):
    for name in ("qa1_train.txt", "qa2_train.txt"):
        (tmp_path / name).write_text(STORY * 3)
    stories = read_split(tmp_path, (1, 2), "train")
    assert [story.task for story in stories] == [1, 1, 1, 2, 2, 2]
    assert len({story.tokens for story in stories}) == 1  # nothing of one file leaks into the next


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("? \t", "?\t"),
        lambda text: text.replace("? \t", "?   \t"),
        lambda text: text.replace("? \t", "\t"),
        lambda text: text.replace("? \t", " \t"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\tattic\t", "\tattic \t"),
    ],
    ids=[
        "CRLF",
        "no blank",
        "blanks",
        "no question mark",
        "neither",
        "no last newline",
        "blank after answer",
    ],
)
def test_variants_of_a_file_read_the_same(tmp_path, change):
    path = tmp_path / "qa1_train.txt"
    path.write_bytes(change(STORY).encode())
    assert read_file(path, 1) == read_text(STORY, 1)


def test_lists_of_answers_are_one_class_or_a_blank_each():
    text = "1 Ann got the apple.\n2 Ann got the milk.\n3 What is Ann carrying? \tapple,milk\t1 2\n"
    [whole], [each] = read_text(text), read_text(text, word_answers=True)
    assert whole.questions[0].answers == ("apple,milk",)
    assert whole.tokens[-2:] == ("?", BLANK)
    assert each.questions[0].answers == ("apple", "milk")
    assert each.tokens[-3:] == ("?", BLANK, BLANK)
    assert each.questions[0].places == (len(each.tokens) - 2, len(each.tokens) - 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("1 Ann sleeps.\n", "holds no question"),
        ("1 Ann sleeps.\n3 Bob sleeps.\n", "line 2: line number 3, expected 2, or 1 for a new story"),
        ("2 Ann sleeps.\n", "line 1: line number 2, expected 1"),
        (STORY + "3 Bob sleeps.\n", "line 4: line number 3, expected 4"),
        ("Ann sleeps.\n", "line 1: expected \"number, space, text\", found 'Ann sleeps.'"),
        ("1 Ann sleeps.\n\n2 Bob sleeps.\n", "line 2: expected"),
        ("1 Ann sleeps.\n2 Who sleeps?\n", "line 2: a question needs its answer and its supporting facts"),
        (
            "1 Ann sleeps.\n2 Who sleeps? \tann\n",
            "line 2: a question has three fields separated by tabs, found 2",
        ),
        ("1 Ann sleeps.\n2 Who sleeps? \t \t1\n", "line 2: the answer is empty"),
        (
            "1 Ann sleeps.\n2 Who sleeps? \tann\tone\n",
            "line 2: supporting facts must be line numbers, found 'one'",
        ),
        ("1 Ann sleeps.\n2 Who sleeps? \tann\t2\n", "line 2: supporting fact 2 is no earlier statement"),
        (STORY + "4 Where is Bob? \tbarn\t3\n", "line 4: supporting fact 3 is no earlier statement"),
        ("1 Ann - sleeps.\n", 'line 1: the word "-" stands for an answer'),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, expected):
    path = tmp_path / "qa7_test.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_file(path, 7)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(UserError, match=r"no bAbI data at .*nowhere"):
        read_split(tmp_path / "nowhere", (1,), "train")
    with pytest.raises(UserError, match=r"no bAbI file .*qa2_train\.txt"):
        read_split(tmp_path, (2,), "train")
    (tmp_path / "qa3_train.txt").write_bytes(b"1 \xff\xfe.\n")
    with pytest.raises(UserError, match="cannot read"):
        read_split(tmp_path, (3,), "train")


def test_tokens():
    assert tokens_of("Where is Julius' cat?") == ("where", "is", "julius'", "cat", "?")
    assert tokens_of("  ") == ()
