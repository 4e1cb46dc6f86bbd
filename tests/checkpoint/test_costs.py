"""Small files cost little: whatever a file says, time and memory are bounded by its size."""

import copy
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from flagai.checkpoint.reader import open_checkpoint
from tests.checkpoint.making import refused, write_archive, write_safetensors

# Opens files in a process of its own: a line for each with its name and by how many MB the most memory grew.
_OPEN = """
import faulthandler, resource, sys
from pathlib import Path
import torch
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import FlagAIError

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for path in map(Path, sys.argv[1:]):
    faulthandler.dump_traceback_later(100, exit=True)  # what takes for ever
    before = used()
    try:
        open_checkpoint(path)
    except FlagAIError as error:
        assert len(str(error)) < 2000, str(error)[:3000]
    print(path.parent.name, used() - before, sep="\\t")
"""


def nested_key(depth: int) -> bytes:
    """A dictionary whose key is a tuple of twice the tuple before; its hash takes 2**depth steps."""
    steps = b"".join(b"2\x86" for _ in range(depth))
    return b"\x80\x02})" + steps + b"K\x01s."


def repeated(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype = torch.int8) -> torch.Tensor:
    reach = sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True)) + 1
    return torch.zeros(reach, dtype=dtype).as_strided(shape, stride)


def same_record(path: Path, records: int) -> None:
    """An archive in which many storages are one record, which is not aligned."""
    step = b"(X\x07\0\0\0storagectorch\nLongStorage\nX\x04\0\0\x00%04dX\x03\0\0\0cpuJ\0\0\2\0tQ"
    tensor = b"X\x04\0\0\0%04dctorch._utils\n_rebuild_tensor_v2\n(" + step + b"K\0(K\x01t(K\x01t\x89}tR"
    content = b"\x80\x02}(" + b"".join(tensor % (n, n) for n in range(records)) + b"u."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/data/0000", bytes(1 << 20))
        record = archive.infolist()[-1]
        for number in range(1, records):
            again = copy.copy(record)
            again.filename = f"a/data/{number:04}"
            archive.filelist.append(again)


LARGE: dict[str, Callable[[Path], object]] = {
    "int8 with stride 0 and a scale": lambda path: torch.save(
        {"a": repeated((30_000, 30_000), (0, 0)), "a.scale": torch.ones(1).expand(30_000)}, path
    ),
    "int8 rows out of one": lambda path: torch.save(
        {"a": repeated((30_000, 30_000), (0, 1)), "a.scale": torch.ones(30_000)}, path
    ),
    "int8 with overlapping rows": lambda path: torch.save(
        {"a": repeated((30_000, 30_000), (1, 1)), "a.scale": torch.ones(30_000)}, path
    ),
    "int4 with stride 0": lambda path: torch.save(
        {"a": repeated((30_000, 4096), (0, 0), torch.int32), "a.scale": repeated((30_000, 256), (0, 0), torch.int32)},
        path,
    ),
    "one storage under many names": lambda path: (
        block := torch.zeros(1000, 1000, dtype=torch.int8),
        torch.save(
            {f"{n}{end}": block if not end else torch.ones(1000) for n in range(400) for end in ("", ".scale")}, path
        ),
    ),
    "an uncountable shape": lambda path: write_archive(
        path, pickle.dumps({"a": 1}, protocol=2).replace(b"K\x01", b"(" + b"K\xff" * 20 + b"t")
    ),
    "a nested tuple as a key": lambda path: write_archive(path, nested_key(60)),
    "a nested tuple as a key, not in a zip": lambda path: path.write_bytes(nested_key(60)),
    "a nested tuple as a name": lambda path: write_archive(path, b"\x80\x02)" + b"2\x86" * 60 + b"2\x93."),
    "a global with a long name": lambda path: write_archive(path, b"\x80\x02c" + b"a" * 16_000 + b"\nb\n."),
    "a global of many parts": lambda path: write_archive(path, b"\x80\x02c" + b"a." * 2_000 + b"\nb\n."),
    "lists without end": lambda path: write_archive(path, b"\x80\x02" + b"]" * 2_100_000 + b"."),
    "a long list as many arguments": lambda path: write_archive(
        path,
        b"\x80\x02(" + b"K\x01" * 50_000 + b"lq\0" + b"ccollections\nOrderedDict\nq\1" + b"h\1h\0\x85R" * 50_000 + b".",
    ),
    "many records that are one": lambda path: same_record(path, 500),
    "a text that says it is large": lambda path: write_archive(path, b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7f."),
    "a directory of many records": lambda path: write_archive(
        path, b"\x80\x02}.", **{f"data/{n:0900}": b"" for n in range(9_100)}
    ),
    "a shape of many ones": lambda path: write_safetensors(
        path.with_suffix(".safetensors"),
        {"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}},
        bytes(4),
    ),
    "a large header": lambda path: write_safetensors(
        path.with_suffix(".safetensors"),
        b'{"a":[' + b"[]," * 4_000_000 + b"[]]}",
    ),
    "a long name": lambda path: write_safetensors(
        path.with_suffix(".safetensors"),
        {"module." * 100_000: {"dtype": "Q", "shape": [], "data_offsets": [0, 4]}},
    ),
}


def test_small_files_take_little_memory_and_time(tmp_path: Path) -> None:
    files = []
    for kind, make in LARGE.items():
        (tmp_path / kind).mkdir()
        make(tmp_path / kind / "pytorch_model.bin")
        files += (tmp_path / kind).iterdir()
    done = subprocess.run([sys.executable, "-c", _OPEN, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = dict(line.split("\t") for line in done.stdout.splitlines())
    allowed = {file.parent.name: 64 + 30 * file.stat().st_size // 2**20 for file in files}
    assert {kind: size for kind, size in grown.items() if int(size) > allowed[kind]} == {}
    assert grown.keys() == LARGE.keys()


def test_tensors_of_one_shape_are_counted_by_their_dimensions(tmp_path: Path) -> None:
    """Three bytes make a tensor of 64 dimensions: a file of 1 MB took 8 s."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
    sizes = b"".join(b"(" + b"K%c" % size * 64 + b"t" for size in (1, 0))
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0(" + storage + b"K\0" + sizes + b"\x89}tq\1"
    path = write_archive(tmp_path / "pytorch_model.bin", head + b"h\0h\1R0" * 40_000 + b".", **{"data/0": bytes(4)})
    with refused("too many opcodes"):
        open_checkpoint(path)
