"""Networks with Mesmer's contract: embedded, mesmer, panoptic."""
