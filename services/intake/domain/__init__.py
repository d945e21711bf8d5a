"""Intake's rules, pure: what a post may say, which region owns it, what its events add up to."""
