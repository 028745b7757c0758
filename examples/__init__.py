"""Apps to start from; each runs alone and under ``noctule up`` without a change."""
