"""Import of listings from files: identification, interpretation, and the listings to send.

One rule: nothing is guessed silently. An uncertain value is refused, or its interpretation is stated before anything is
sent.
"""
