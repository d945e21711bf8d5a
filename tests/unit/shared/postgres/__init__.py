"""Unit tests of shared.kafka."""
