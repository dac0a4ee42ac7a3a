"""Metrics of images and features; everything that reads datasets or networks is above."""
