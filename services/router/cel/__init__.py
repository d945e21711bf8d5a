"""Conditions of policies in CEL (Common Expression Language).

`CelConditions` evaluates the conditions of a policy set. Two engines evaluate a condition with the same result:
Google's CEL (`engine`), and one Python function that is generated from all conditions of the set (`program`). The
function costs a fraction of CEL's time. It covers a part of the language (`syntax`, `translation`); CEL evaluates every
other condition, and every condition that raises an exception in Python.
"""
