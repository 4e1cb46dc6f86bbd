"""Operations: the first suitable implementation computes, and plain torch where none suits."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from flagai.errors import InputError
from flagai.model.layer.kernel_choice import jit_kernels, only_kernels
from flagai.model.layer.operation import Operation, operation


def triple_of(add: Callable[[torch.Tensor], torch.Tensor]) -> Operation[[torch.Tensor], torch.Tensor]:
    """An operation with two implementations: of large tensors, and of those that torch.compile may trace."""

    @operation
    def triple(values: torch.Tensor) -> torch.Tensor:
        return add(values)

    @triple.faster(lambda values: values.numel() > 2)
    def large(values: torch.Tensor) -> torch.Tensor:
        return add(values) + 10

    @triple.faster(lambda values: values.numel() > 1, traceable=True)
    def traced(values: torch.Tensor) -> torch.Tensor:
        return add(values) + 20

    return triple


@pytest.fixture
def triple() -> Operation[[torch.Tensor], torch.Tensor]:
    return triple_of(lambda values: 3 * values)


def test_the_first_suitable_implementation_computes(triple: Operation[[torch.Tensor], torch.Tensor]) -> None:
    assert [float(triple(torch.ones(count))[0]) for count in (1, 2, 3)] == [3, 23, 13]
    assert triple.choose(torch.ones(1)) is triple.plain
    assert triple.__name__ == "triple"


@pytest.mark.parametrize(("allowed", "expected"), [((), [3, 3]), (("traced",), [23, 23]), (("large",), [3, 13])])
def test_only_named_implementations_compute(
    triple: Operation[[torch.Tensor], torch.Tensor], allowed: tuple[str, ...], expected: list[float]
) -> None:
    names = [each.name for each in triple.implementations if each.name.rpartition(".")[2] in allowed]
    with only_kernels(*names):
        assert [float(triple(torch.ones(count))[0]) for count in (2, 3)] == expected
    assert float(triple(torch.ones(3))[0]) == 13


@pytest.mark.parametrize(("context", "expected"), [(nullcontext(), 23), (only_kernels(), 3)], ids=["all", "none"])
def test_the_compiler_traces_what_it_may(
    triple: Operation[[torch.Tensor], torch.Tensor], context: AbstractContextManager[None], expected: float
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(triple.__call__, backend="eager", fullgraph=True)
    with context:
        assert float(compiled(torch.ones(3))[0]) == expected


def test_layers_compute_without_the_kernels_package() -> None:
    code = (
        "import sys; sys.modules['flagai.kernels'] = None\n"
        "import torch; from flagai.model.layer import Linear\n"
        "assert Linear(3, 2)(torch.ones(1, 3)).shape == (1, 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_that_must_be_compiled_wait_for_their_context() -> None:
    @operation
    def double(number: int) -> int:
        return 2 * number

    @double.faster(lambda _: True, jit=True)
    def compiled(number: int) -> int:
        return number + number

    assert double.choose(1) is double.plain
    with jit_kernels() as used:
        assert double.choose(1) is compiled
        with jit_kernels(use=False):
            assert double.choose(1) is double.plain
        with only_kernels():
            assert double.choose(1) is double.plain
    assert used == {double.implementations[0].name}
    assert double.choose(1) is double.plain


def test_a_name_that_no_kernel_has_is_refused() -> None:
    for name, near in (("cpu.nothing", "cpu"), ("cpu.linear.linear_by_onedn", "cpu.linear.linear_by_onednn")):
        with pytest.raises(InputError, match=f"no kernel '{name}'. Near: .*{near}"), only_kernels(name):
            pass


def test_a_kernel_of_an_absent_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flagai.kernels", None)
    absent = pytest.raises(InputError, match=r"no kernel 'cpu.none': the package flagai.kernels is absent")
    with absent, only_kernels("cpu.none"):
        pass


def test_a_named_kernel_imports_its_own_module_only() -> None:
    code = (
        "import sys; from flagai.model.layer.kernel_choice import only_kernels\n"
        "with only_kernels('cpu.linear.linear_by_onednn'): pass\n"
        "assert 'flagai.kernels.cpu.linear' in sys.modules and 'flagai.kernels.decode.select' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
