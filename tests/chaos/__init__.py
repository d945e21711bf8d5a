"""Promises under faults: a load, faults drawn from a seed, and a checker that knows the promises and not the code."""
