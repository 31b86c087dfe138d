"""Frames in and pictures out: images, videos, cameras, a window."""
