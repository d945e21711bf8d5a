"""Generators and checks for the committed contracts. Development only: not part of the distribution."""
