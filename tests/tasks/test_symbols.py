"""Sequences of symbols: a solver that only reads the tokens finds every answer, and nothing gives it away."""

from __future__ import annotations

import pytest
import torch

from tasks import TASKS
from tasks.config import SymbolConfig
from tasks.symbols import SYMBOL_TASKS, Alphabet, Sizes, associative_recall, dictionary

SIZES = [Sizes(2, 1), Sizes(4, 1), Sizes(3, 2), Sizes(8, 3)]


def solve_dictionary(tokens: list[int], alphabet: Alphabet, sizes: Sizes) -> list[int]:
    """Read the pairs into a table, look the query up."""
    support, question = split(tokens, alphabet.predict)
    image: dict[int, int] = {}
    for item in groups(support, alphabet.instance):
        left, right = split(item, alphabet.pair)
        for source, target in zip(left, right, strict=True):
            assert image.setdefault(source, target) == target, "the mapping changed within the sequence"
    query, blanks = split(question, alphabet.pair)
    assert blanks == [alphabet.blank] * sizes.length
    assert len(set(image.values())) == len(image), "the mapping is not one-to-one"
    return [image[symbol] for symbol in query]


def solve_copy(tokens: list[int], alphabet: Alphabet, sizes: Sizes) -> list[int]:
    """Everything before PREDICT."""
    shown, blanks = split(tokens, alphabet.predict)
    assert blanks == [alphabet.blank] * len(shown)
    return shown


def solve_associative_recall(tokens: list[int], alphabet: Alphabet, sizes: Sizes) -> list[int]:
    """Find the queried item, which must be there exactly once, and name the next one."""
    shown, question = split(tokens, alphabet.predict)
    items = groups(shown, alphabet.instance)
    query, blanks = split(question, alphabet.pair)
    assert blanks == [alphabet.blank] * sizes.length
    assert items.count(query) == 1
    return items[items.index(query) + 1]


SOLVERS = {
    "dictionary": solve_dictionary,
    "copy": solve_copy,
    "associative-recall": solve_associative_recall,
}


def split(tokens: list[int], mark: int) -> tuple[list[int], list[int]]:
    """What stands before and behind the only `mark`."""
    assert tokens.count(mark) == 1
    place = tokens.index(mark)
    return tokens[:place], tokens[place + 1 :]


def groups(tokens: list[int], mark: int) -> list[list[int]]:
    """Parts that each end with `mark`."""
    assert tokens[-1] == mark
    found: list[list[int]] = [[]]
    for token in tokens[:-1]:
        if token == mark:
            found.append([])
        else:
            found[-1].append(token)
    return found


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", SYMBOL_TASKS)
def test_every_answer_follows_from_the_tokens(name: str, sizes: Sizes) -> None:
    alphabet = Alphabet(26)
    batch = SYMBOL_TASKS[name](alphabet, sizes, 200, stream())
    for tokens, targets, answer in zip(batch.tokens.T.tolist(), batch.targets.T, batch.answer.T, strict=True):
        assert SOLVERS[name](tokens, alphabet, sizes) == targets[answer].tolist()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", SYMBOL_TASKS)
def test_the_model_reads_a_blank_where_it_answers_and_targets_stand_nowhere_else(
    name: str, sizes: Sizes
) -> None:
    alphabet = Alphabet(26)
    batch = SYMBOL_TASKS[name](alphabet, sizes, 100, stream())
    assert (batch.tokens[batch.answer] == alphabet.blank).all()
    assert (batch.tokens[~batch.answer] != alphabet.blank).all()
    assert (batch.targets[~batch.answer] == 0).all()
    assert batch.valid.all()
    symbols = batch.tokens[batch.tokens <= alphabet.symbols]
    assert (symbols.min(), symbols.max()) == (1, alphabet.symbols)
    assert batch.tokens.max() < alphabet.codes


def test_the_published_examples_are_of_this_format() -> None:
    """A = 4, N = 3, l = 2: length (N + 1)(2 l + 2), marks 6, 7, 8, 9 in their places."""
    batch = dictionary(Alphabet(4), Sizes(3, 2), 1, stream())
    tokens = batch.tokens[:, 0].tolist()
    assert len(tokens) == (3 + 1) * (2 * 2 + 2)
    marks = [token if token > 4 else 0 for token in tokens]
    assert marks == [0, 0, 6, 0, 0, 7] * 3 + [8, 0, 0, 6, 9, 9]
    assert (Alphabet(26).pair, Alphabet(26).codes) == (28, 32)


def test_the_answer_to_a_dictionary_query_cannot_be_guessed_from_the_query() -> None:
    """The mapping is new in every sequence: over many, each image of a query is as frequent as any other."""
    batch = dictionary(Alphabet(5), Sizes(4, 1), 20_000, stream())
    query = batch.tokens[-3]
    answer = batch.targets[-1]
    table = torch.zeros(6, 6).index_put_((query, answer), torch.ones(20_000), accumulate=True)[1:, 1:]
    shares = table / table.sum(1, keepdim=True)
    assert (shares - 0.2).abs().max() < 0.03
    places = torch.stack([batch.tokens[4 * item] == query for item in range(4)]).double().mean(1)
    assert (places - places[0]).abs().max() < 0.02, "some place of the support is asked for more often"


@pytest.mark.parametrize("name", SYMBOL_TASKS)
def test_equal_streams_give_equal_sequences(name: str) -> None:
    first, second, other = (
        SYMBOL_TASKS[name](Alphabet(26), Sizes(3, 2), 8, stream(seed)).tokens for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_associative_recall_of_crowded_sequences_still_has_a_clear_question() -> None:
    """Two symbols and five items: most draws repeat every item and must be drawn again."""
    alphabet, sizes = Alphabet(2), Sizes(5, 1)
    batch = associative_recall(alphabet, sizes, 50, stream())
    for tokens, targets in zip(batch.tokens.T.tolist(), batch.targets.T, strict=True):
        assert solve_associative_recall(tokens, alphabet, sizes) == [int(targets[-1])]


def test_every_task_on_symbols_has_its_sequences() -> None:
    assert [n for n, entry in TASKS.items() if isinstance(entry.defaults, SymbolConfig)] == list(SYMBOL_TASKS)
