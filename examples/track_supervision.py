"""Follow objects through a video with ByteTrack of Roboflow's trackers: `python track_supervision.py model.onnx video.mp4`.

Prints a line for each object in each frame, from the second one that holds it on: frame, number of the track, class, score,
corners. Needs `yoloquant`, `supervision` and `trackers`.
"""

import sys
from pathlib import Path

import supervision
from trackers import ByteTrackTracker

import yoloquant
from yoloquant.data.video import open_video
from yoloquant.evaluation.postprocess import Detections
from yoloquant.evaluation.predict import PredictionSettings, predict


def to_supervision(found: Detections) -> supervision.Detections:
    """Detections of this project as supervision's: both hold corners in pixels of the picture."""
    return supervision.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.classes)


def main(model: str, video: str) -> None:
    """Track all objects of a video."""
    runner = yoloquant.open_runner(model)
    opened = open_video(Path(video))
    tracker = ByteTrackTracker(frame_rate=opened.rate)
    settings = PredictionSettings(confidence=0.25)
    for number, (_, found) in enumerate(predict(runner, opened.frames(), settings)):
        tracked = tracker.update(to_supervision(found))
        for box, score, index, track in zip(tracked.xyxy, tracked.confidence, tracked.class_id, tracked.tracker_id, strict=True):
            # Below 0: it is no track yet.
            if track >= 0:
                print(number, track, runner.names[index], f"{score:.3f}", *(f"{value:.1f}" for value in box))


if __name__ == "__main__":
    main(*sys.argv[1:3])
