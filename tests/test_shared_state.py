"""Settings of the whole process are left alone: other threads have them, too."""

import ast
import gc
import os
import stat
from pathlib import Path

import pytest

from flagai.checkpoint.atomic import replace_file
from flagai.model.meta_init import gc_frozen, gc_paused
from tests.threads import together

SOURCE = Path(__file__).parent.parent / "src" / "flagai"
# Calls that change something for all threads, as they are written after the last import.
SWITCHES = {
    "gc.disable", "gc.enable", "gc.freeze", "gc.unfreeze", "gc.set_threshold",
    "warnings.catch_warnings", "warnings.simplefilter", "warnings.filterwarnings",
    "os.chdir", "os.environ", "os.putenv", "os.umask", "locale.setlocale", "random.seed", "signal.signal",
    "socket.setdefaulttimeout", "sys.setrecursionlimit", "sys.setswitchinterval", "resource.setrlimit",
    "logging.basicConfig", "logging.disable", "numpy.random.seed", "np.random.seed",
    "torch.manual_seed", "torch.set_default_device", "torch.set_default_dtype", "torch.set_deterministic_debug_mode",
    "torch.set_float32_matmul_precision", "torch.set_flush_denormal", "torch.set_num_interop_threads",
    "torch.set_num_threads", "torch.set_printoptions", "torch.use_deterministic_algorithms",
    "torch.serialization.add_safe_globals", "torch.serialization.safe_globals",
}  # fmt: skip
# Modules whose attributes are settings of the process.
SETTINGS = ("torch.backends", "torch._dynamo.config", "torch._inductor.config", "warnings", "sys")
ALLOWED = {
    ("cli/command.py", "logging.basicConfig"): "the command line is the program",
    ("cli/command.py", "sys.stdout"): "the command line is the program",
    ("export/onnx_graph.py", "warnings.catch_warnings"): "while torch's exporter runs, which warns of itself",
    ("jobs/pool.py", "torch.set_num_threads"): "a process of a job, which shares the cores with the others",
    ("model/meta_init.py", "gc.disable"): "a pause costs other threads nothing, and is taken back",
    ("model/meta_init.py", "gc.enable"): "the end of the pause",
    ("model/meta_init.py", "gc.freeze"): "not if somebody else has frozen objects",
    ("model/meta_init.py", "gc.unfreeze"): "its end",
    ("serve/listening.py", "signal.signal"): "a server is the program; its handlers are put back",
    ("serve/server.py", "signal.signal"): "a rank of a server ends when the first one says so",
    ("settings.py", "os.environ"): "the one place that reads the environment",
}


def switches(path: Path) -> set[str]:
    """The settings of the process that a file changes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            changed = isinstance(node.ctx, ast.Store) and name.startswith(tuple(f"{entry}." for entry in SETTINGS))
            if changed or name in SWITCHES:
                found.add(name)
    return found


def test_the_library_changes_nothing_for_the_whole_process() -> None:
    found = {(path.relative_to(SOURCE).as_posix(), name) for path in SOURCE.rglob("*.py") for name in switches(path)}
    assert found == ALLOWED.keys()


def test_objects_that_the_caller_has_frozen_stay_so() -> None:
    gc.freeze()
    try:
        with gc_frozen():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
    with gc_frozen():
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_the_collector_goes_on_after_pauses_on_threads() -> None:
    def pause() -> None:
        with gc_paused():
            pass

    together(pause, times=200)
    assert gc.isenabled()


def test_permissions_are_found_without_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("files of other threads get other permissions"))
        with replace_file(tmp_path / "a") as path:
            path.write_text("a")
    finally:
        monkeypatch.undo()
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
