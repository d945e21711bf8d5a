"""Tests of the router's domain."""
