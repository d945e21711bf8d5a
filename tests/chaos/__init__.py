"""Tests of the promises under faults: a load, faults drawn from a seed, and a checker that knows the promises but not
the code."""
