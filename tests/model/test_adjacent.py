"""Equal tensors that lie one behind the other in memory."""

import torch
from torch import nn

from flagai.model.layer.adjacent import adjacent, make_adjacent


def test_parts_of_one_tensor_are_found_without_a_copy() -> None:
    whole = torch.randn(6, 4)
    found = adjacent(whole.chunk(3))
    assert found is not None
    assert found.data_ptr() == whole.data_ptr()
    assert torch.equal(found, whole)
    assert adjacent(whole.chunk(3)[::-1]) is None
    assert adjacent([whole[:2], whole[4:]]) is None
    assert adjacent([torch.randn(2, 4), torch.randn(2, 4)]) is None


def test_parameters_stay_the_same_objects_with_the_same_values() -> None:
    layers = [nn.Linear(4, 3) for _ in range(3)]
    parameters = [layer.weight for layer in layers]
    wanted = torch.cat(parameters)
    make_adjacent(parameters)
    assert all(layer.weight is parameter for layer, parameter in zip(layers, parameters, strict=True))
    found = adjacent(parameters)
    assert found is not None
    assert torch.equal(found, wanted)
    make_adjacent(parameters)
    assert parameters[0].data_ptr() == found.data_ptr()


def test_moved_parameters_can_be_trained() -> None:
    """Steps move them in inference mode, whose tensors have no gradients."""
    layers = [torch.nn.Linear(4, 4) for _ in range(3)]
    with torch.inference_mode():
        make_adjacent([layer.weight for layer in layers])
    torch.stack([layer(torch.ones(1, 4)) for layer in layers]).sum().backward()
    assert all(layer.weight.grad is not None for layer in layers)


def test_inference_tensors_stay_inference_tensors() -> None:
    with torch.inference_mode():
        layers = [torch.nn.Linear(4, 4) for _ in range(3)]
        make_adjacent([layer.weight for layer in layers])
        assert all(layer.weight.is_inference() for layer in layers)
        assert layers[0](torch.ones(1, 4)).shape == (1, 4)
