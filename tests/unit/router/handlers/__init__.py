"""Tests of the router's handlers."""
