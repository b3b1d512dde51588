"""How fast sgs is, beside what a user could pick instead: python -m benchmarks, and pytest benchmarks -n 0."""
