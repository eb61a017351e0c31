"""One annotated frame: the map on the left, the recalls of this step on the right, numbers around them.

Everything has a fixed place, so nothing jumps from frame to frame: text is drawn at fixed anchors in fixed
slots, bars share one scale per episode, an unused tile stays as an empty frame, and a recall keeps its row as
long as the order stays readable (`stable_rows`); its exact rank is the number in the tile, and the
same number marks on the map where the agent stood then. Pillow's own font is used, so that nothing has to be
installed; it has no Greek letters, hence "rho".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from envs.errors import UserError
from recall.names import MOST_TILES
from recall.render import palette
from recall.render.palette import Colour, shortened, text_at, text_width
from recall.render.scene import MAP_SIZE, THUMBNAIL_SIZE, Cell, Picture, Scene
from recall.scores.recalls import CLEARLY, INTERACT, NO_SINGLE, NOT_USED, UNAFFECTED, StepRecalls, Thresholds
from recall.scores.registry import SCORES

MARGIN = 18
HEADER = 92
TITLE = 52
TILE_HEIGHT = 86
TILE_GAP = 6
PANEL_WIDTH = 436
SLOTS_HEIGHT = 44
FOOTER = 124
SMALLEST_LINKED = 12
"""Pixels: side of a cell to which a line may lead."""
PLACE_MARK = 15
"""Pixels: side of the rank that is drawn on the map."""

WORDS_SIZE = 16
VALUE_SIZE, SMALL_VALUE_SIZE = 21, 14
TOLD = ("", INTERACT)
"""Where what is recalled is said in words: where writes interact, amounts are doubtful, and not which step it is."""
QUIET = {NO_SINGLE: f"{NO_SINGLE}: several together"}
"""What is said elsewhere, where the reason alone does not say it."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Facts:
    """The numbers of one step. The reward is the one of the action shown, and the return includes it."""

    step: int
    steps: int
    action: str
    likelihood: str
    """What `probability` is (`Tape.likelihood`)."""
    probability: float
    reward: float
    total: float
    value: float
    beta: float | None
    episode: int
    episodes: int
    core: str
    seed: int


@dataclass(frozen=True)
class Tile:
    """One recall: an earlier step, how much its write matters now, and what was seen then."""

    rank: int
    """Its place by score, counted from 0."""
    where: Picture
    seen: Picture | None
    step: int
    age: int
    note: str
    """A word on the write itself: its rate, or whether it was read."""
    score: float
    supports: bool
    reward: float
    """The reward that the agent had just received then."""
    cell: Cell | None = None
    """(row, column) where the agent stood then, if the environment can tell."""
    had_effect: bool = True
    """False for a slot of a hard memory that only came close to being read."""
    words: str = ""
    """What was seen then, if anything can say."""


def signed(number: float, digits: int = 2) -> str:
    """A short number without trailing zeros: 10, 0.5, -0.05."""
    text = f"{number:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def score_text(score: float) -> str:
    """A score in four or five characters: 0.46, 0.046, 5e-06."""
    return f"{score:.0e}" if 0 < score < 0.0005 else f"{score:.{2 if score >= 0.1 else 3}f}"


def remembers(tile: Tile, width: int) -> str:
    """What a recall is, in a line of `width` pixels: which step, what was seen in it, and how long ago."""
    begins, ends = (
        f"remembers step {tile.step}",
        f", seen {'1 step' if tile.age == 1 else f'{tile.age} steps'} ago",
    )
    if not tile.words:
        return begins + ends
    room = width - text_width(f"{begins}: {ends}", WORDS_SIZE)
    return f"{begins}: {shortened(tile.words, WORDS_SIZE, room)}{ends}"


class Painter:
    """Draws frames of one size."""

    def __init__(
        self,
        top_k: int,
        thresholds: Thresholds,
        has_markers: bool = True,
        has_view: bool = True,
        score: str = "removal",
    ) -> None:
        if top_k < 1:
            raise UserError(f"top-k must be at least 1, not {top_k}")
        if top_k > MOST_TILES:
            raise UserError(f"top-k must be at most {MOST_TILES} to fit a picture, not {top_k}")
        self.top_k = top_k
        self.thresholds = thresholds
        self.score = SCORES[score]
        tiles = TITLE + top_k * (TILE_HEIGHT + TILE_GAP) - TILE_GAP
        self.body = max(MAP_SIZE, tiles)
        self.width = 2 * MARGIN + MAP_SIZE + MARGIN + PANEL_WIDTH
        self.height = HEADER + self.body + FOOTER
        self.panel_left = 2 * MARGIN + MAP_SIZE
        self._blank = self._draw_blank(has_markers, has_view)

    def paint(
        self,
        scene: Scene,
        facts: Facts,
        recalls: StepRecalls,
        tiles: Sequence[Tile | None] = (),
        scale: float = 1.0,
    ) -> Picture:
        """The frame [height, width, 3] of one step. `tiles` come row by row, None for an empty row; `scale` is
        the score that fills a bar."""
        image = self._blank.copy()
        draw = ImageDraw.Draw(image)
        self._paint_map(image, scene)
        self._paint_header(draw, facts)
        doubt = recalls.doubt(self.thresholds)
        shown = [tile for tile in tiles[: self.top_k] if tile is not None]
        self._paint_words(draw, doubt, shown)
        for row, tile in enumerate(tiles[: self.top_k]):
            if tile is not None:
                doubtful = bool(doubt) or not tile.had_effect
                # Where writes interact, amounts do not add up; what was seen then stays what is recalled.
                pale = doubtful and (doubt != INTERACT or not tile.had_effect)
                self._paint_tile(image, draw, row, tile, scale, doubtful, pale)
        if doubt in TOLD:
            self._paint_link(draw, scene, tiles[: self.top_k])
        self._paint_places(draw, scene, shown)
        self._paint_footer(draw, facts, recalls, scale)
        return np.asarray(image)

    def tile_box(self, row: int) -> Box:
        """(left, top, right, bottom) of the tile in `row`, counted from 0."""
        top = HEADER + TITLE + row * (TILE_HEIGHT + TILE_GAP)
        return self.panel_left, top, self.panel_left + PANEL_WIDTH - 1, top + TILE_HEIGHT - 1

    def map_corner(self, scene: Scene) -> tuple[int, int]:
        """(left, top) of the scene's picture inside the frame."""
        height, width = scene.picture.shape[:2]
        return MARGIN + (MAP_SIZE - width) // 2, HEADER + (MAP_SIZE - height) // 2

    # What never changes --------------------------------------------------------

    def _draw_blank(self, has_markers: bool, has_view: bool) -> Image.Image:
        image = Image.new("RGB", (self.width, self.height), palette.PAPER)
        draw = ImageDraw.Draw(image)
        draw.rectangle((MARGIN, HEADER, MARGIN + MAP_SIZE - 1, HEADER + MAP_SIZE - 1), fill=palette.PANEL)
        if has_markers:
            self._draw_legend(draw, has_view)
        text_at(draw, (self.panel_left, HEADER - 2), f"What it recalls: top {self.top_k}", 20)
        then = "seen then, position then" if has_view else "the frame then"
        now = "whether it is read now" if self.score is SCORES["address"] else "its effect now"
        text_at(draw, (self.width - MARGIN, HEADER + 4), f"{then}, {now}", 13, palette.FAINT_INK, "ra")
        for row in range(self.top_k):
            draw.rectangle(self.tile_box(row), fill=palette.PAPER, outline=palette.EDGE)
        return image

    def _draw_legend(self, draw: ImageDraw.ImageDraw, has_view: bool) -> None:
        top, left = HEADER - 28, MARGIN
        draw.ellipse((left, top, left + 15, top + 15), fill=palette.AGENT, outline=palette.AGENT_EDGE)
        text_at(draw, (left + 22, top - 1), "orange = agent", 15)
        left += 150
        draw.rectangle((left, top, left + 15, top + 15), fill=palette.GOAL, outline=palette.GOAL_EDGE)
        text_at(draw, (left + 22, top - 1), "red = goal", 15)
        if not has_view:
            return
        left += 120
        draw.rectangle(
            (left, top, left + 15, top + 15), fill=palette.SEEN_FREE, outline=palette.VIEW_EDGE, width=2
        )
        text_at(draw, (left + 22, top - 1), "what the agent sees", 15)

    # What changes --------------------------------------------------------------

    def _paint_map(self, image: Image.Image, scene: Scene) -> None:
        image.paste(Image.fromarray(scene.picture), self.map_corner(scene))

    def _paint_header(self, draw: ImageDraw.ImageDraw, facts: Facts) -> None:
        slots = [
            ("step", f"{facts.step} / {facts.steps}"),
            ("action", facts.action),
            ("reward", signed(facts.reward) if facts.reward else "-"),
            ("return so far", signed(facts.total)),
        ]
        if facts.episodes > 1:
            slots.append(("episode", f"{facts.episode} / {facts.episodes}"))
        _slots(draw, (MARGIN, 8), MAP_SIZE // len(slots), slots, strong="reward" if facts.reward else "")
        # An agent trained elsewhere goes by its file, without the folder.
        slots = [("memory core", facts.core.rpartition("/")[2]), ("seed", str(facts.seed))]
        _slots(draw, (self.panel_left, 8), PANEL_WIDTH // 2, slots)

    def _paint_words(self, draw: ImageDraw.ImageDraw, doubt: str, tiles: Sequence[Tile]) -> None:
        """What is recalled, in words; quiet where nothing is."""
        best = next((tile for tile in tiles if tile.rank == 0), None)
        place, ink = (self.panel_left, HEADER + 23), palette.INK
        if doubt in TOLD and best is not None:
            line = remembers(best, PANEL_WIDTH)
        else:
            line, ink = QUIET.get(doubt, doubt), palette.FAINT_INK
            if doubt == UNAFFECTED:
                line += " by what came before" if self.score.of_steps else " by what is read"
        text_at(draw, place, line, WORDS_SIZE, ink)

    def _paint_link(self, draw: ImageDraw.ImageDraw, scene: Scene, tiles: Sequence[Tile | None]) -> None:
        """A line from the best recall to the cell where the agent stood then."""
        row = next((row for row, tile in enumerate(tiles) if tile is not None and tile.rank == 0), None)
        tile = None if row is None else tiles[row]
        if row is None or tile is None or tile.cell is None or scene.cell_size < SMALLEST_LINKED:
            return
        (left, top), cell = self.map_corner(scene), scene.cell_size
        x, y = left + tile.cell[1] * cell, top + tile.cell[0] * cell
        box = self.tile_box(row)
        draw.line(
            (x + cell, y + cell // 2, box[0] - 1, (box[1] + box[3]) // 2), fill=palette.SUPPORTS, width=2
        )
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=palette.SUPPORTS, width=3)

    def _paint_tile(
        self,
        image: Image.Image,
        draw: ImageDraw.ImageDraw,
        row: int,
        tile: Tile,
        scale: float,
        grey: bool,
        pale: bool,
    ) -> None:
        """`grey`: its bar says too much; `pale`: so do its pictures."""
        left, top, right, bottom = self.tile_box(row)
        draw.rectangle((left, top, right, bottom), fill=palette.PANEL, outline=palette.EDGE)
        ink = palette.FAINT_INK if grey else palette.INK
        _badge(draw, (left + 15, (top + bottom) // 2), tile.rank, 19)
        pictures = [tile.where] if tile.seen is None else [tile.seen, tile.where]
        space = (2 * THUMBNAIL_SIZE + 8 * (2 - len(pictures))) // len(pictures)
        for column, picture in enumerate(pictures):
            shown = palette.grey_out(picture) if pale else picture
            corner_left = left + 31 + column * (space + 8) + (space - picture.shape[1]) // 2
            corner_top = top + 5 + (THUMBNAIL_SIZE - picture.shape[0]) // 2
            image.paste(Image.fromarray(shown), (corner_left, corner_top))
            box = (
                corner_left - 1,
                corner_top - 1,
                corner_left + picture.shape[1],
                corner_top + picture.shape[0],
            )
            draw.rectangle(box, outline=palette.GREYED)
        text_left = left + 31 + 2 * (THUMBNAIL_SIZE + 8) + 4
        text_at(draw, (text_left, top + 6), f"age {tile.age}", 19, ink)
        text_at(draw, (right - 10, top + 9), tile.note, 15, ink, "ra")
        self._paint_bar(draw, (text_left, top + 36, right - 62, top + 51), tile, scale, grey)
        text_at(draw, (right - 10, top + 35), score_text(tile.score), 16, ink, "ra")
        then = f"step {tile.step}" + (f": {tile.words}" if tile.words else "")
        then = shortened(
            then + (f", reward {signed(tile.reward)}" if tile.reward else ""), 15, right - 6 - text_left
        )
        text_at(draw, (text_left, top + 60), then, 15, palette.FAINT_INK)

    def _paint_places(self, draw: ImageDraw.ImageDraw, scene: Scene, tiles: Sequence[Tile]) -> None:
        """The ranks in the corners of the cells where the agent stood then; the middle stays free."""
        cell = scene.cell_size
        if cell < 3 * PLACE_MARK:
            return
        left, top = self.map_corner(scene)
        taken: dict[Cell, int] = {}
        for tile in sorted(tiles, key=lambda tile: tile.rank):
            if tile.cell is None:
                continue
            number = taken.setdefault(tile.cell, 0)
            taken[tile.cell] += 1
            if number > 3:  # a cell has four corners
                continue
            down, right = (0, 0, 1, 1)[number], (0, 1, 0, 1)[number]
            reach = PLACE_MARK // 2 + 2
            middle = (
                left + tile.cell[1] * cell + (cell - reach if right else reach),
                top + tile.cell[0] * cell + (cell - reach if down else reach),
            )
            _badge(draw, middle, tile.rank, PLACE_MARK)

    def _paint_bar(self, draw: ImageDraw.ImageDraw, box: Box, tile: Tile, scale: float, grey: bool) -> None:
        """Filled if the write supports what was read, hollow if it opposes it."""
        left, top, right, bottom = box
        draw.rectangle(box, fill=palette.PAPER, outline=palette.EDGE)
        length = round((right - left) * min(1.0, tile.score / scale))
        if length < 1:
            return
        colour: Colour = palette.GREYED if grey else palette.SUPPORTS if tile.supports else palette.OPPOSES
        filled = colour if tile.supports else None
        draw.rectangle((left, top, left + length, bottom), fill=filled, outline=colour, width=2)

    def _paint_footer(
        self, draw: ImageDraw.ImageDraw, facts: Facts, recalls: StepRecalls, scale: float
    ) -> None:
        top = HEADER + self.body + 10
        slots = [
            ("value of the state", f"{facts.value:.2f}"),
            (f"{facts.likelihood} of action", f"{facts.probability:.2f}"),
        ]
        if recalls.of_steps:
            if recalls.policy_effect is not None:
                slots.append(("all forgotten: action moves by", f"{recalls.policy_effect:.2f}"))
            if facts.beta is not None:
                slots.append(("writing now: beta", f"{facts.beta:.2f}"))
        elif recalls.had_effect is None:
            slots += [
                ("use share", _share(recalls.use_share)),
                ("residual rho", _share(recalls.residual)),
                ("writing now: beta", "-" if facts.beta is None else f"{facts.beta:.2f}"),
                (f"top {self.top_k} removed jointly", f"{recalls.joint_score:.2f}"),
            ]
        else:
            slots.append(("heads that read a slot", _share(recalls.use_share)))
        _slots(draw, (MARGIN, top), (self.width - 2 * MARGIN) // len(slots), slots)
        for number, line in enumerate(self._explanation(recalls, scale)):
            text_at(draw, (MARGIN, top + 52 + 20 * number), line, 14, palette.FAINT_INK)

    def _explanation(self, recalls: StepRecalls, scale: float) -> tuple[str, str, str]:
        """What score, bars and grey mean."""
        limits, meaning = self.thresholds, f"{self.score.label}: {self.score.meaning}, as {self.score.unit}."
        if recalls.of_steps:
            moves = f"no probability moves by {signed(limits.policy)}"
            return (
                meaning,
                f"Full bar = {scale:.2f}. The number is the rank; a row moves up only if it is better by "
                f"{CLEARLY - 1:.0%}.",
                f"Grey: {UNAFFECTED} ({moves}), {NO_SINGLE} ({moves} but all forgotten).",
            )
        greyed = f"{NOT_USED} (use share < {signed(limits.use_share)})"
        if recalls.had_effect is not None:
            greyed = f"{NOT_USED} (no head read a slot)"
        if recalls.policy_effect is not None or recalls.of_policy:
            greyed += f", {UNAFFECTED} (no probability moves by {signed(limits.policy)})"
        if recalls.judged_by_residual:
            greyed += f"; bars only: {INTERACT} (rho > {signed(limits.residual)})"
        hollow = "hollow bar: opposes. "
        if recalls.had_effect is not None:
            hollow = "grey tile: not read, no effect; its bar is the probability of that address. "
        return (
            meaning,
            f"Full bar = {scale:.2f}; {hollow}The number is the rank; a row moves up only if it is better by "
            f"{CLEARLY - 1:.0%}.",
            f"Grey: {greyed}.",
        )


def _share(number: float) -> str:
    return f"{number:.2f}" if number < 100 else "> 100"


def _badge(draw: ImageDraw.ImageDraw, middle: tuple[int, int], rank: int, size: int) -> None:
    """The rank, counted from 1, white on a dark square; the best one is black."""
    half = size // 2
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    draw.rectangle(box, fill=palette.INK if rank == 0 else palette.NOTICE, outline=palette.PAPER)
    text_at(draw, middle, str(rank + 1), round(size * 0.8), palette.PAPER, "mm")


def _slots(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    step: int,
    slots: Sequence[tuple[str, str]],
    strong: str = "",
) -> None:
    """Small grey names above large values, `step` pixels apart; long values are set smaller, or end in dots."""
    left, top = corner
    for name, text in slots:
        ink = palette.SUPPORTS if name == strong else palette.INK
        text_at(draw, (left, top), name, 14, palette.FAINT_INK)
        fitting = (
            size for size in range(VALUE_SIZE, SMALL_VALUE_SIZE, -1) if text_width(text, size) <= step - 8
        )
        size = next(fitting, SMALL_VALUE_SIZE)
        text_at(draw, (left, top + 17), shortened(text, size, step - 8), size, ink)
        left += step
