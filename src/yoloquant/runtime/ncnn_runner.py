"""Run ncnn's `.param` and `.bin` in ncnn, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.exporting.metadata_file import read_metadata_file
from yoloquant.files.reading import read_text
from yoloquant.runtime.executed_layers import Executed
from yoloquant.runtime.file_runner import FileRunner
from yoloquant.runtime.runner import ClosedRunnerError

NAME = "ncnn"
_WEIGHTED = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct")
# The parameter `int8_scale_term`: not zero where a layer computes in integers.
_IN_INTEGERS = "8="


class NcnnRunner(FileRunner):
    """A network of one image in ncnn, whose layers in float compute in 32 bits."""

    batch_size = 1

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load a network.

        Args:
            path: Path of the `.param` file, which `.bin` and `metadata.yaml` lie beside.
            threads: 0 lets the runtime choose.

        Raises:
            YoloquantError: Ncnn cannot load it.
        """
        super().__init__(path, read_metadata_file(path.parent), NAME)
        self._net: Any = load_net(path, threads)
        (self._input,) = self._net.input_names()
        self._outputs = list(self._net.output_names())

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileRunner`."""
        if self._net is None:
            raise ClosedRunnerError
        found = [self._of_image(image) for image in images]
        return {name: np.stack([outputs[name] for outputs in found]) for name in self._outputs}

    def _of_image(self, image: np.ndarray) -> dict[str, np.ndarray]:
        import ncnn

        extractor = self._net.create_extractor()
        source = np.ascontiguousarray(image, dtype=np.float32)
        # A copy, since a Mat of numpy's memory neither keeps it alive nor can be changed in place by the first layer.
        extractor.input(self._input, ncnn.Mat(source).clone())
        found = {}
        for name in self._outputs:
            code, output = extractor.extract(name)
            if code != 0:
                raise YoloquantError(f"ncnn cannot compute {name}: it ended with code {code}")
            # The memory is the extractor's.
            found[name] = np.array(output)
        return found

    def close(self) -> None:
        """Drop the network."""
        self._net = None


def load_net(path: Path, threads: int = 0) -> Any:
    """A network in ncnn, ready to run.

    Raises:
        YoloquantError: The files are missing or damaged.
    """
    import ncnn

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise CheckpointError(f"there is no file {weights}, which holds the weights of {path.name}: deliver the folder again")
    net = ncnn.Net()
    # Half precision is for Arm's kernels, and no part of what was verified.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_vulkan_compute = False
    if threads:
        net.opt.num_threads = threads
    if net.load_param(str(path)) != 0 or net.load_model(str(weights)) != 0:
        raise YoloquantError(f"ncnn cannot load {path} and {weights.name}: deliver the folder again")
    return net


def executed_in_ncnn(path: Path) -> Executed:
    """Layers of a network by their own parameter: ncnn loads int8 weights for its integer kernels only, and never falls back.

    Raises:
        YoloquantError: Ncnn cannot load the files.
    """
    load_net(path)
    lines = [line.split() for line in read_text(path, CheckpointError).splitlines()[2:]]
    layers = {name: any(part.startswith(_IN_INTEGERS) for part in rest) for kind, name, *rest in lines if kind in _WEIGHTED}
    products = sum(kind == "MatMul" for kind, *_ in lines)
    return Executed(
        NAME,
        integer=tuple(name for name, integer in layers.items() if integer),
        floating=tuple(name for name, integer in layers.items() if not integer),
        products=products,
    )
