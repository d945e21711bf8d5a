"""`make bench`: what each stage does, beside what the machine could do at best, in the same run.

A figure alone says as much about the machine as about the code. So each has a floor: the same bytes through the bare
client, or into a bare table. Stage and floor take turns (A B A B …) and the medians are compared, because the machine
is shared and noisy. Nothing here is a test: a figure that misses its mark is shown, and the run ends well.
"""
