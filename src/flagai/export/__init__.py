"""Models in other runtimes' formats: ONNX."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.export.onnx_folder import Export as Export
    from flagai.export.onnx_folder import export_onnx as export_onnx
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, {"flagai.export.onnx_folder": "Export export_onnx"})
