"""Attention of rows whose tokens are split over the devices of a mesh axis."""
