"""A runtime: ONNX Runtime under another name."""

from yoloquant.runtime.registry import Runtime


def _open(path, metadata, threads):
    from yoloquant.runtime.onnxruntime_runner import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(path, metadata, threads)
    runner.name = "another"
    return runner


ANOTHER = Runtime("onnxruntime", _open)
