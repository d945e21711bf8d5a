"""`make bench` measures each stage and, in the same run, its floor: the best that this machine can do.

A figure alone depends on the machine as much as on the code. So each figure has a floor: the same bytes through the
bare client, or into a bare table. Stage and floor take turns (A B A B …), and their medians are compared, because the
machine is shared and noisy. Nothing here is a test: a figure that misses its mark is reported, and the run still
succeeds.
"""
