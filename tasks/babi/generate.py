"""Stories in the format of bAbI, drawn from descriptions of tasks 1, 2, 6 and 15: no download is needed.

    1   people move; "Where is Mary?" wants the place of her last move
    2   people also take, carry and leave things; "Where is the apple?" wants the place of whoever carries it,
        or the place where it was left
    6   as 1, asked as "Is Mary in the garden?", yes or no
    15  every kind of animal fears another kind; "What is Gertrude afraid of?" wants what her kind fears

The wording follows Weston et al. 2015, "Towards AI-complete question answering"; the stories are our own and
no replacement for the official files: results on them are not comparable with published ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.babi.reader import SPLITS

PEOPLE = ("Mary", "John", "Daniel", "Sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
MOVE = ("moved to", "went to", "went back to", "journeyed to", "travelled to")
TAKE = ("got", "grabbed", "picked up", "took")
LEAVE = ("discarded", "dropped", "left", "put down")
KINDS = {"cat": "cats", "mouse": "mice", "sheep": "sheep", "wolf": "wolves"}
NAMES = ("Emily", "Gertrude", "Jessica", "Winona")
QUESTIONS = 5
"""Per story of tasks 1, 2 and 6; task 15 asks about each of its four names."""


@dataclass
class World:
    """A story under way: who is where, who has what, and on which line that was said."""

    draw: random.Random
    lines: list[str] = field(default_factory=list)
    place: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Person -> place and the line that said so."""
    carrier: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Thing -> who carries it and the line that said so."""
    left: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Thing -> place where it was left, the line that said so, and the line that told the place."""

    def say(self, text: str) -> int:
        """Append a line and return its number."""
        self.lines.append(text)
        return len(self.lines)

    def ask(self, question: str, answer: str, *facts: int) -> None:
        """Append a question with its answer and supporting facts."""
        self.say(f"{question} \t{answer}\t{' '.join(map(str, facts))}")

    def move(self) -> None:
        """Someone goes to another place."""
        person = self.draw.choice(PEOPLE)
        here = self.place.get(person, ("", 0))[0]
        there = self.draw.choice([place for place in PLACES if place != here])
        self.place[person] = there, self.say(f"{person} {self.draw.choice(MOVE)} the {there}.")

    def handle(self) -> None:
        """Someone whose place is known takes or leaves a thing, if that is possible; else someone moves."""
        person = self.draw.choice(PEOPLE)
        if person not in self.place:
            return self.move()
        here, told = self.place[person]
        owned = [thing for thing, (who, _) in self.carrier.items() if who == person]
        # A thing not yet mentioned may lie anywhere; one that was left lies where it was left.
        free = [
            thing
            for thing in THINGS
            if thing not in self.carrier and self.left.get(thing, (here,))[0] == here
        ]
        if owned and (not free or self.draw.random() < 0.5):
            thing = self.draw.choice(owned)
            del self.carrier[thing]
            line = self.say(f"{person} {self.draw.choice(LEAVE)} the {thing} there.")
            self.left[thing] = here, line, told
        elif free:
            thing = self.draw.choice(free)
            self.left.pop(thing, None)
            line = self.say(f"{person} {self.draw.choice(TAKE)} the {thing} there.")
            self.carrier[thing] = person, line
        else:
            self.move()
        return None


def where_is_a_person(draw: random.Random) -> list[str]:
    """A story of task 1."""
    world = World(draw)
    for _ in range(QUESTIONS):
        world.move()
        world.move()
        person = draw.choice(list(world.place))
        place, line = world.place[person]
        world.ask(f"Where is {person}?", place, line)
    return world.lines


def where_is_a_thing(draw: random.Random) -> list[str]:
    """A story of task 2."""
    world = World(draw)
    asked = 0
    while asked < QUESTIONS:
        for _ in range(draw.randint(2, 4)):
            draw.choice((world.move, world.move, world.handle))()
        known = [*world.carrier, *world.left]
        if not known:
            continue
        thing = draw.choice(known)
        if thing in world.carrier:
            person, line = world.carrier[thing]
            place, told = world.place[person]
        else:
            place, line, told = world.left[thing]
        world.ask(f"Where is the {thing}?", place, line, told)
        asked += 1
    return world.lines


def is_a_person_there(draw: random.Random) -> list[str]:
    """A story of task 6."""
    world = World(draw)
    for _ in range(QUESTIONS):
        world.move()
        world.move()
        person = draw.choice(list(world.place))
        place, line = world.place[person]
        if draw.random() < 0.5:
            world.ask(f"Is {person} in the {place}?", "yes", line)
        else:
            elsewhere = draw.choice([other for other in PLACES if other != place])
            world.ask(f"Is {person} in the {elsewhere}?", "no", line)
    return world.lines


def what_is_feared(draw: random.Random) -> list[str]:
    """A story of task 15."""
    world = World(draw)
    fears = {kind: draw.choice([other for other in KINDS if other != kind]) for kind in KINDS}
    kinds = {name: draw.choice(list(KINDS)) for name in NAMES}
    facts = [f"{KINDS[kind].capitalize()} are afraid of {KINDS[fears[kind]]}." for kind in KINDS]
    facts += [f"{name} is a {kinds[name]}." for name in NAMES]
    draw.shuffle(facts)
    line = {fact.split()[0].lower(): world.say(fact) for fact in facts}
    for name in draw.sample(NAMES, len(NAMES)):
        kind = kinds[name]
        world.ask(f"What is {name.lower()} afraid of?", fears[kind], line[name.lower()], line[KINDS[kind]])
    return world.lines


GENERATORS: dict[int, Callable[[random.Random], list[str]]] = {
    1: where_is_a_person,
    2: where_is_a_thing,
    6: is_a_person_there,
    15: what_is_feared,
}
"""Task -> one story of it, as lines without numbers."""


def generate(task: int, stories: int, split: str = "train", seed: int = 0) -> str:
    """Text of a file in the official format; equal arguments give equal text, every split its own stories."""
    draw = random.Random(f"{seed}/{task}/{SPLITS.index(split)}")
    lines = []
    for _ in range(stories):
        lines += [f"{number} {text}" for number, text in enumerate(GENERATORS[task](draw), start=1)]
    return "\n".join(lines) + "\n"
