"""The largest values of fields, by what they count or measure.

They are far above what any of these has been, and they keep a slip of the
keyboard, such as a batch of 2**34, from the allocation of an array. A field of
`config.field` that names no bound of its own has `WHOLE` or `REAL`.
"""

WHOLE = 2**31 - 1  # what an int32 holds, such as the number of a step
REAL = 1e9  # of either sign
FLOAT32 = 3.4e38
TINY = 1.2e-38  # above 0; float32 has no smaller number of full precision
SEED = 2**63 - 1  # what an int64 holds
SPLIT_SEED = 2**32 - 1  # the splits of `shapes` have the seeds above, too
BATCH = 2**20  # images or examples at a time
COUNT = 2**32 - 1024  # images; their numbers are words of 32 bits
SIDE = 2**15  # pixels of a side
WIDTH = 2**16  # channels, heads
DEPTH = 2**10  # blocks
LEVELS = 30  # of halving or of doubling
ROWS = 2**24  # of a table: classes, categories, tokens of a vocabulary
SEQUENCE = 2**16  # tokens, objects
STEPS = 10**6  # of a solver, or levels of a chain
THREADS = 2**10
RHO, POWER = 1e3, 1e3  # exponents
WEIGHT = 1e6  # of a loss, of a correction
SIGMA = 1e6  # noise levels
LOGARITHM = 30.0  # of either sign, of a number whose exponential is taken
NETWORK = 2**20  # arguments of the constructor of a network, of either sign
