"""Checkpoints of a running training: everything that the next step depends on, kept whole or not at all."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagai.errors import InputError
from flagai.train.engine import Engine

_PROGRESS = "progress.json"


@dataclass
class Progress:
    """Where a training stands.

    Args:
        step: steps that are done.
        tokens: tokens that were read.
        best: the best value of the metric so far; None before the first evaluation.
        best_step: when it was reached.
        waited: evaluations since then.
    """

    step: int = 0
    tokens: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0


class States:
    """The checkpoints of a run, in a folder beside the model's.

    Args:
        out: the folder of the result.
        accelerator: Accelerate's.
        engine: writes and reads parameters, optimizer, loss scale and random numbers.
        settings: what the run was asked to do; a checkpoint of another run is refused.
    """

    def __init__(self, out: Path, accelerator: Any, engine: Engine, settings: dict[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".training")
        self.accelerator, self.engine = accelerator, engine
        # As they are after reading them from the file again.
        self.settings = json.loads(json.dumps(settings))

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; a crash leaves the one before."""
        new = self.folder / f"step-{progress.step:08d}"
        unfinished = new.with_suffix(".part")
        if self.accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.engine.save(unfinished)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            content = {"settings": self.settings, "progress": asdict(progress)}
            (unfinished / _PROGRESS).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
            shutil.rmtree(new, ignore_errors=True)
            unfinished.rename(new)
            for old in self._all():
                if old != new:
                    shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def load(self) -> Progress:
        """Continue from the newest checkpoint, or begin.

        Raises:
            InputError: it belongs to a run with other settings.
        """
        found = self._all()
        if not found:
            return Progress()
        content = json.loads((found[-1] / _PROGRESS).read_text(encoding="utf-8"))
        different = [
            f"{name} was {content['settings'].get(name)!r}, now {value!r}"
            for name, value in self.settings.items()
            if content["settings"].get(name) != value
        ]
        if different:
            raise InputError(
                f"{self.folder} has an unfinished training with other settings: {'; '.join(different)}. "
                "Use the same ones to continue it, or remove the folder to begin anew."
            )
        self.engine.load(found[-1])
        return Progress(**content["progress"])

    def remove(self) -> None:
        """Remove the checkpoints of a finished run."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(folder for folder in self.folder.glob("step-????????") if (folder / _PROGRESS).is_file())
