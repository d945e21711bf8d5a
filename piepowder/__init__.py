"""The command `piepowder`: starts a local stack, submits items, reviews cases, shows results."""
