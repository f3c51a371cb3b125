"""The peers of `families.py`: how nncf, onnxruntime.quantization and ultralytics make their files.

Each maker takes the network's folder, whose `float.onnx` is there, and the path to write. All calibrate on the photographs that
this project's default recipe draws.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
Maker = Callable[[Path, Path], None]
# What decodes must stay in float in ONNX Runtime's tool: one scale for boxes in pixels and for scores rounds every score to zero.
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def calibration_photographs(count: int | None = None) -> list[Any]:
    """Entries of the train split that the default recipe calibrates on, the first so many of them."""
    from yoloquant.quant.images import images_to_calibrate
    from yoloquant.recipe.recipe import resolve_recipe

    return images_to_calibrate(resolve_recipe("int8").calibration, SHARED / "coco" / "data.yaml", None).calibration[:count]


def batches() -> Iterator[np.ndarray]:
    """The photographs one by one, `(1, 3, 640, 640)` float32, 0..1, RGB."""
    from yoloquant.data.loader import ImageLoader

    for batch in ImageLoader(calibration_photographs(), (640, 640), 1):
        yield batch.images.numpy().astype(np.float32) / np.float32(255.0)


class _Stream:
    """Photographs that can be gone through again."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return batches()


def nncf_onnx(_: Path | None) -> Maker:
    """nncf on the ONNX file, preset MIXED."""

    def make(folder: Path, path: Path) -> None:
        import nncf
        import onnx

        model = onnx.load(folder / "float.onnx")
        name = model.graph.input[0].name
        data = nncf.Dataset(_Stream(), lambda images: {name: images})
        onnx.save(nncf.quantize(model, data, subset_size=128, preset=nncf.QuantizationPreset.MIXED), path)

    return make


def nncf_openvino(_: Path | None) -> Maker:
    """nncf on OpenVINO's own representation, preset MIXED."""

    def make(folder: Path, path: Path) -> None:
        import nncf
        import openvino

        model = openvino.Core().read_model(str(folder / "float.onnx"))
        made = nncf.quantize(model, nncf.Dataset(_Stream()), subset_size=128, preset=nncf.QuantizationPreset.MIXED)
        openvino.save_model(made, path, compress_to_fp16=False)

    return make


def onnxruntime_static(_: Path | None) -> Maker:
    """onnxruntime.quantization, Q/DQ, uint8 activations and int8 weights per channel, as its documentation says for x86."""

    def make(folder: Path, path: Path) -> None:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(str(folder / "float.onnx"), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        stream, name = batches(), graph.input[0].name

        class Reader(CalibrationDataReader):
            """Photographs as the tool asks for them."""

            def get_next(self) -> dict[str, np.ndarray] | None:
                images = next(stream, None)
                return None if images is None else {name: images}

        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in graph.node if node.op_type not in _WEIGHTED],
        )
        prepared.unlink()

    return make


def ultralytics_export(kind: str) -> Callable[[Path | None], Maker]:
    """`yolo export quantize=8`, with its own settings."""

    def prepare(source: Path | None) -> Maker:
        def make(_: Path, path: Path) -> None:
            from ultralytics import YOLO

            work = path.parent / f"ultralytics-{kind}"
            data = _ultralytics_data(work)
            weights = work / source.name if source else work
            shutil.copy(str(source), weights)
            found = Path(YOLO(str(weights)).export(format=kind, quantize=8, data=str(data), imgsz=640))
            if kind == "onnx":
                shutil.copy(found, path)
                return
            for suffix in (".xml", ".bin"):
                shutil.copy(next(found.glob(f"*{suffix}")), path.with_suffix(suffix))

        return make

    return prepare


def _ultralytics_data(work: Path) -> Path:
    """The photographs as a data set whose val split is what ultralytics calibrates on."""

    def labelled() -> Iterator[tuple[Path, str | None]]:
        for entry in calibration_photographs():
            photograph = Path(entry.path).resolve()
            labels = photograph.parents[2] / "labels" / photograph.parent.name / f"{photograph.stem}.txt"
            yield photograph, labels.read_text() if labels.is_file() else None

    return write_linked_data(work, labelled())


def write_linked_data(folder: Path, photographs: Iterable[tuple[Path, str | None]]) -> Path:
    """A data set of links to photographs, all in both splits, with their labels as text; none leaves out the file of labels.

    Returns:
        Its data.yaml, which is written last.
    """
    import yaml

    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for photograph, labels in photographs:
        link = folder / "images" / photograph.name
        if not link.is_symlink():
            link.symlink_to(photograph.resolve())
        if labels is not None:
            (folder / "labels" / f"{photograph.stem}.txt").write_text(labels)
    names = yaml.safe_load((SHARED / "coco" / "data.yaml").read_text())["names"]
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": names}))
    return data


# Tool, file, runtime, what makes it of the network's checkpoint.
PEERS: tuple[tuple[str, str, str, Callable[[Path | None], Maker]], ...] = (
    ("nncf (ONNX)", "nncf.onnx", "onnxruntime", nncf_onnx),
    ("nncf (OpenVINO)", "nncf.xml", "openvino", nncf_openvino),
    ("onnxruntime.quantization", "onnxruntime.onnx", "onnxruntime", onnxruntime_static),
    ("ultralytics format=onnx", "ultralytics.onnx", "onnxruntime", ultralytics_export("onnx")),
    ("ultralytics format=openvino", "ultralytics.xml", "openvino", ultralytics_export("openvino")),
)
