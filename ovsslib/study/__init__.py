"""What the book studies beyond one measurement: ablations, claims, failures, cost."""
