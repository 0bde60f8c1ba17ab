"""Landmarks from videos: frames (video.py), detectors (landmarker.py, holistic.py, tasks_backend.py), one clip
(worker.py), which clips there are (inputs.py), and the run over all of them (run.py)."""
