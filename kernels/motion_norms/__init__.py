"""Norms of a motion's error, frame by frame and from frame to frame."""
