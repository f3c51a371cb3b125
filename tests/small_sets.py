"""Small data sets that several test files write."""

import cv2
import numpy as np


def write_set(folder, count=3, size=(40, 60), names="[a, b]", split="val"):
    """A YOLO data set of plain images with a box each."""
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = np.full((*size, 3), index * 10, np.uint8)
        image[..., 0] = 200  # blue, as OpenCV orders channels
        cv2.imwrite(str(folder / "images" / split / f"{index:06d}.png"), image)
        (folder / "labels" / split / f"{index:06d}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.2\n")
    path = folder / "data.yaml"
    path.write_text(f"path: .\n{split}: images/{split}\nnames: {names}\n")
    return path
