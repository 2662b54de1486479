"""How much of a foreign file is read: bytes, ratios, items, depth, seconds.

A foreign file is one that somebody else may have made: weights, images,
sketches, annotations, lists, arrays. Its reader refuses what exceeds a limit
with the error of its format, which names the limit, before it takes the memory
or the time. Together the limits keep every file below 10 s and 2 GiB.
"""
