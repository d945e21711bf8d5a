"""Decision: a region's cases, who holds them, what was decided; the only writer of decisions, automatic ones too."""
