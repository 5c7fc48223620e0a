"""Kernels of attention and of grouped products: plain functions of arrays that import only jax and numpy.

Installed as `mirothinker_kernels`, because the bare name `kernels` belongs to another distribution.
"""
