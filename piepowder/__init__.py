"""The command `piepowder`: start the system here, post to it, review, look at it, account for all."""
