"""Attention over keys and values in pages: a few new tokens of many sequences against all before them.

xla.py and tpu.py have the same functions over layouts of their own; reference.py has the definition.
"""
