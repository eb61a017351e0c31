"""Ctrl-C as a request: the step in hand is finished and saved before the command ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop after the update in hand."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.code = 0
        self.say = say
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            raise KeyboardInterrupt
        self.code = 128 + number
        self.say("Stopping after this update; once more stops at once, without a checkpoint.")
