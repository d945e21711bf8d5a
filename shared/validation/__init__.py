"""Validation of untrusted input: strict JSON, faults with JSON pointers."""
