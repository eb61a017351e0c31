"""Build hook: the wheel holds the packages and the three commands inside `mnm_rl`, as they are in the checkout.

An editable install needs nothing of this: it puts the checkout itself on the path.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CONTENT = (
    "agents",
    "envs",
    "memory",
    "recall",
    "tasks",
    "pretrained",
    "train_rl.py",
    "train_task.py",
    "evaluate.py",
)


class WheelContent(BuildHookInterface):  # type: ignore[type-arg]
    """Adds CONTENT with everything in it: kernel sources, viewer files, published weights."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is written."""
        if version != "editable":
            build_data["force_include"].update({name: f"mnm_rl/{name}" for name in CONTENT})
