"""Who makes the steps: the host, kernel by kernel, or a GPU that replays what it did before."""

from contextlib import ExitStack

from flagai.generation.decoding_state import Scored
from flagai.generation.replay.steps import Choosing, steps_of, suits
from flagai.generation.search import Search


class Stepper:
    """The two halves of a step, in turn: choose the next tokens, run the model over them.

    After the first choice, when all lanes are there, both halves may become recordings.

    Args:
        search: the search.
        stack: what to leave in the end.
    """

    def __init__(self, search: Search, stack: ExitStack) -> None:
        self._search = search
        self._stack = stack
        self._scored: Scored = search.tree.begin()
        self._choosing: Choosing | None = None
        self._begun = False

    def grow(self) -> None:
        """Choose the next tokens, and put them into the tree."""
        if self._choosing is None:
            self._search.grow(self._scored)
        else:
            self._choosing()

    def run(self) -> None:
        """Run the model over the newest tokens."""
        tree = self._search.tree
        if not self._begun:
            self._begun = True
            self._become_static()
        if tree.static is not None and self._choosing is None:
            tree.feed()
        self._scored = tree.run()
        if tree.static is not None and self._choosing is None and self._search.recordable:
            self._choosing = Choosing(self._search, self._scored, steps_of(tree.model))

    def _become_static(self) -> None:
        tree = self._search.tree
        if suits(self._search):
            tree.make_static(self._stack.enter_context(steps_of(tree.model).lend(tree)))
