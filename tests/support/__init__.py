"""Factories, fakes and helpers that several test modules use."""
