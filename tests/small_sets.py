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


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def coco(boxes_by_image, classes=1):
    """Ground truth with class 0 boxes."""
    rows = [(image, b) for image, boxes in boxes_by_image.items() for b in boxes]
    return {
        "info": {},
        "images": [{"id": image, "width": 100, "height": 100, "file_name": f"{image}.png"} for image in boxes_by_image],
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 0, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for n, (image, b) in enumerate(rows, 1)
        ],
    }
